"""`steer data`: the embedded world, or rows in any known layout, as a run folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from data_recipes import world, world_model
from data_recipes.files import STDIN
from steer.config import DataConfig
from steer.progress import progress
from steer.rows import Row, content_hash, read, split_of, write
from steer.run import Run, fingerprint
from steer.schema import AttributeSchema


def data(config: DataConfig) -> str:
    """Write rows.jsonl with a split; the world also brings its schema and an untrained model. Summary line."""
    simulated = config.source == "world"
    piped = list(read(STDIN)) if config.source == STDIN else None  # can be read only once
    inputs = {} if simulated else {"source": fingerprint(config.source) if piped is None else content_hash(piped)}
    run = Run(config.output, config, inputs)
    if run.done:
        return str(run.done["summary"])
    # Every row of a file is looked at once before anything is written.
    total = config.size if simulated else sum(1 for _ in _rows(config, piped))
    run.start()
    counts: Counter[str] = Counter()
    rows = progress(_counted(_rows(config, piped), counts), total=total, what=f"data {config.source}")
    written = write(run.folder / "rows.jsonl", rows)
    if simulated:
        from steer.adapter import quiet

        AttributeSchema.from_json({"attributes": world.SCHEMA}).save(run.folder / "schema.json")
        with quiet():
            world_model.save(run.folder / "model", seed=config.seed)
    summary = (
        f"data: {written} rows in, {written} out, 0 skipped; {counts['train']} for training, {counts['test']} held out."
    )
    return run.finish(summary, rows=written)


def _rows(config: DataConfig, piped: Sequence[Row] | None) -> Iterable[Row]:
    """The rows of the source, each with its split."""
    source = _world(config) if config.source == "world" else read(config.source) if piped is None else piped
    rows = islice(source, config.limit or None)
    return ({**row, "split": split_of(row, config.held_out, config.seed)} for row in rows)


def _counted(rows: Iterable[Row], counts: Counter[str]) -> Iterator[Row]:
    for row in rows:
        counts[row["split"]] += 1
        yield row


def _world(config: DataConfig) -> Iterable[Row]:
    c = config
    return world.rows(world.World(c.size, c.seed, c.spread, c.rated, c.noise, per_prompt=c.per_prompt, primer=c.primer))
