"""`steer data`: the embedded world, or rows in any known layout, as a run folder."""

from __future__ import annotations

from itertools import islice

from data_recipes import world, world_model
from steer.config import DataConfig
from steer.errors import SteerError
from steer.progress import progress
from steer.rows import Row, read, split_of, write
from steer.run import Run, fingerprint
from steer.schema import AttributeSchema


def data(config: DataConfig) -> str:
    """Write rows.jsonl with a split; the world also brings its schema and an untrained model. Summary line."""
    simulated = config.source == "world"
    run = Run(config.output, config, {} if simulated else {"source": fingerprint(config.source)})
    if run.done:
        return str(run.done["summary"])
    if simulated:
        settings = world.World(
            config.size,
            config.seed,
            config.spread,
            config.rated,
            config.noise,
            per_prompt=config.per_prompt,
            primer=config.primer,
        )
        if config.size < 1:
            raise SteerError(f"--size {config.size}: a world has at least one row.")
        source, total = world.rows(settings), config.size
    else:
        total = sum(1 for _ in islice(read(config.source), config.limit or None))
        source = read(config.source)
    counts = {"train": 0, "test": 0}

    def split(row: Row) -> Row:
        side = split_of(row, config.held_out, config.seed)
        counts[side] += 1
        return {**row, "split": side}

    run.start()
    taken = islice(source, config.limit or None)
    written = write(run.folder / "rows.jsonl", progress(map(split, taken), total=total, what=f"data {config.source}"))
    if simulated:
        AttributeSchema.from_json({"attributes": world.SCHEMA}).save(run.folder / "schema.json")
        world_model.save(run.folder / "model", seed=config.seed)
    summary = (
        f"data: {written} rows in, {written} out, 0 skipped; {counts['train']} for training, {counts['test']} held out."
    )
    return run.finish(summary, rows=written)
