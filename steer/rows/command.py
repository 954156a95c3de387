"""`steer data`: the embedded world, or rows in any known layout, as a run folder."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path

from data_recipes import duplicates, exports, world, world_model
from data_recipes.mapped import parsed
from data_recipes.streams import STDIN, DataError
from steer.config import DataConfig
from steer.errors import SteerError
from steer.progress import progress
from steer.rows import Reading, Row, Tally, content_hash, prompt_key, read, split_of, write
from steer.rows.directions import of_name
from steer.rows.schema import Attribute, Schema
from steer.rows.survey import Survey, bare, score_ranges
from steer.run_folder import Run, fingerprint, stage

WORLD = "world"


@stage
def data_command(config: DataConfig) -> str:
    """Write rows.jsonl with a split; the world also brings its schema and an untrained model. Summary line."""
    sources = Sources(config)
    run = Run(config.output, config, sources.inputs())
    if run.done:
        return str(run.done["summary"])
    survey = Survey(config)  # every row of a source is looked at once before anything is written
    for place, row in sources.rows():
        survey.add(place, row)
    survey.close(sources.names, sources.skipped, sources.tally)
    run.start()
    left: list[Row] = [{"why": message} for message in (*sources.skipped, *sources.tally.dropped)]
    counts: Counter[str] = Counter()
    kept = _kept(sources, survey, left, counts)
    written = write(run.folder / "rows.jsonl", progress(kept, total=survey.total, what=f"data {config.source}"))
    if left:
        write(run.folder / "left_out.jsonl", left)
    if config.source == WORLD:
        _world_files(run.folder, config.seed)
    if ranges := survey.known_scales(sources.tally)[0]:  # what fit and label read beside the rows
        _scales_file(run.folder, ranges)
    told = [*survey.report(sources.skipped, sources.tally, counts), *_exported(config, run.folder, survey)]
    summary = (
        f"data: {survey.total} rows in, {written} out, {len(sources.skipped)} skipped; "
        f"{counts['train']} for training, {counts['test']} held out."
    )
    facts = {"left_out": len(left), "layouts": dict(sources.tally.records), "duplicates": counts["duplicates"]}
    return run.finish("\n".join([*told, summary]), rows=written, **facts)


def _world_files(folder: Path, seed: int) -> None:
    from steer.progress import quiet

    Schema.from_json({"attributes": world.SCHEMA}).save(folder / "schema.json")
    with quiet():
        world_model.save(folder / "model", seed=seed)


def _scales_file(folder: Path, ranges: Mapping[str, tuple[float, float]]) -> None:
    attributes = []
    for name, (low, high) in ranges.items():
        direction, origin = of_name(name)
        attributes.append(Attribute(name, low, high, direction, float(direction != 0), origin=origin))
    Schema(tuple(attributes)).save(folder / "schema.json")


class Sources:
    """The source and those that are mixed in: their rows, each with its split, in one order however often read."""

    def __init__(self, config: DataConfig) -> None:
        self.config = config
        self.names = (config.source, *config.mix)
        self.skipped: list[str] = []
        self.tally = Tally()
        self.piped = list(self._file(STDIN)) if STDIN in self.names else None  # can be read only once
        self.piped_skipped, self.piped_tally = self.skipped, self.tally

    def inputs(self) -> dict[str, str]:
        """What the run reads, by its content; a hub set by its name and revision."""
        return {("source" if i == 0 else f"mix {i}"): self._identity(name) for i, name in enumerate(self.names)} | (
            {"requests": fingerprint(self.config.requests)} if self.config.requests else {}
        )

    def _identity(self, name: str) -> str:
        if name == STDIN and self.piped is not None:
            return content_hash(self.piped)
        return name if name == WORLD else fingerprint(name)

    def rows(self) -> Iterator[tuple[str, Row]]:
        """(Name of the source, row); ids that occur in an earlier source end in @2, @3, ..."""
        self.skipped, self.tally = list(self.piped_skipped), Tally()
        for counts, piped in zip(vars(self.tally).values(), vars(self.piped_tally).values()):
            counts.update(piped)
        seen: set[str] = set()
        for number, name in enumerate(self.names, start=1):
            for row in islice(self._read(name), self.config.limit or None):
                if len(self.names) > 1:
                    row = {"source": name, **row}
                    while row["id"] in seen:
                        row["id"] = f"{row['id']}@{number}"
                    seen.add(row["id"])
                if self.config.resplit:
                    row = {column: value for column, value in row.items() if column != "split"}
                asked = {**row, "prompt": [*row["prompt"], {"role": "assistant", "content": row["response"]}]}
                sided = asked if bare(row, self.config.prompt) else row  # one prompt for all is on both sides
                yield name, {**row, "split": split_of(sided, self.config.held_out, self.config.seed)}

    def _read(self, name: str) -> Iterable[Row]:
        if name == WORLD:
            return _world(self.config)
        if name == STDIN:
            return self.piped or ()
        return self._file(name)

    def _file(self, name: str) -> Iterator[Row]:
        reading = self._reading()
        if self.config.bad == "skip":
            yield from read(name, skipped=self.skipped, reading=reading, tally=self.tally)
            return
        try:
            yield from read(name, reading=reading, tally=self.tally)
        except SteerError as error:
            if not re.match(re.escape(name) + r":( row )?\d", str(error)):  # it is not about one record
                raise
            raise SteerError(f"{error} Or leave out what cannot be used: --bad skip.") from None

    def _reading(self) -> Reading:
        try:
            columns = parsed(self.config.map)
        except DataError as error:
            raise SteerError(str(error)) from None
        return Reading(columns, self.config.prompt, self.config.requests, score_ranges(self.config.range))


def _kept(sources: Sources, survey: Survey, left: list[Row], counts: Counter[str]) -> Iterator[Row]:
    """The rows that are written, counted by their side; what is left out goes to `left` with the reason."""
    seen: set[bytes] = set()
    alike: dict[str, str] = {}
    for place, found in sources.rows():
        row = survey.merged(found)
        if row is None:
            counts["merged"] += 1
            continue
        reason, why = "", ""
        if survey.mixed is not None and prompt_key(row) not in survey.mixed[place]:
            reason, why = "mixture", "beyond the weight of its source"
        elif survey.config.duplicates != "keep":
            reason, why = _duplicate(row, survey, seen, alike)
        if reason:
            counts[reason] += 1
            left.append({"id": row["id"], "why": why})
        else:
            counts[row["split"]] += 1
            yield row


def _duplicate(row: Row, survey: Survey, seen: set[bytes], alike: dict[str, str]) -> tuple[str, str]:
    """(Kind, reason) why a row is left out as a duplicate; ("", "") where it is none."""
    normal = survey.asked(row)
    content = json.dumps([normal, row["response"], row["scores"], row["split"], row.get("group")], sort_keys=True)
    if (name := duplicates.key(content)) in seen:
        return "repeated", "prompt, response and scores are those of an earlier row"
    seen.add(name)
    if row["split"] == "test":
        return "", ""
    if "test" in survey.sides[duplicates.key(normal)]:
        return "duplicates", "its prompt is also that of a test row"
    if survey.near:
        if normal not in alike:
            found = survey.near.like(normal)
            alike[normal] = (
                f"its prompt is like one of the test rows ({found[0]:.2f}): {found[1][:80]}" if found else ""
            )
        if alike[normal]:
            return "alike", alike[normal]
    return "", ""


def _exported(config: DataConfig, folder: Path, survey: Survey) -> Iterator[str]:
    """Write the rows as other trainers read them, train.jsonl and test.jsonl in a folder each; a line for each."""
    for name in config.export:
        told = []
        for side in ("train", "test"):
            rows = (row for row in read(folder / "rows.jsonl", unique=False) if row["split"] == side)
            ids: set[str] = set()
            if name == "trl-preference":
                records: Iterable[Row] = exports.preferences(rows, survey.value(), ids)
            else:
                convert = exports.steerlm if name == "steerlm" else exports.prompt_completion
                records = _converted(convert, rows, ids)
            path = folder / name / f"{side}.jsonl"
            count = write(path, records)
            if not count:  # an empty file would be refused by those who read the folder
                path.unlink()
            told.append(f"{count} {side}" + (f" ({len(ids)} rows in none of them)" if ids else ""))
        yield f"exported: {name}, {', '.join(told)}"
        if name == "trl-preference":
            yield from survey.ordered()


def _converted(convert: Callable[[Row], Row], rows: Iterable[Row], ids: set[str]) -> Iterator[Row]:
    for row in rows:
        try:
            yield convert(row)
        except DataError:
            ids.add(row["id"])


def _world(config: DataConfig) -> Iterable[Row]:
    c = config
    return world.rows(world.World(c.size, c.seed, c.spread, c.rated, c.noise, per_prompt=c.per_prompt, primer=c.primer))
