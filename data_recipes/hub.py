"""Read records of Hugging Face datasets: by hub name, from a saved folder, or from a folder of data files.

`hf:OWNER/NAME[/FOLDER][:CONFIG][@REVISION][#SPLIT,SPLIT]`, or `hf:` before a local folder that is laid out like one.
All splits are read where none is named, and the column `split` says which one a record is of. Loaded through
`datasets.load_dataset`, so the token, the mirror and the cache of the environment count; nothing from there is run.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from data_recipes.streams import DataError, Record, form

HUB = "hf:"
SPEC = re.compile(r"hf:(?P<name>[^:@#]+)(?::(?P<config>[^@#]+))?(?:@(?P<revision>[^#]+))?(?:#(?P<splits>.+))?")
MODELS = (("steer.json", "a policy"), ("model.json", "a scorer"))  # what such folders hold
DESCRIBE = ("config.json", "dataset_infos.json")  # files of a published set that hold no rows
FORMATS = dict.fromkeys((".jsonl", ".ndjson", ".json"), "JSON")
FORMATS |= {".csv": "CSV", ".tsv": "TSV", ".parquet": "Parquet"}
SAVED = ("dataset_info.json", "dataset_dict.json")  # what Dataset.save_to_disk leaves


def records(spec: str) -> Iterator[tuple[str, Record]]:
    """Yield the records of `hf:...` with their places, "name/split: row N"."""
    match = SPEC.fullmatch(spec)
    if not match:
        raise DataError(f"{spec}: cannot be read. Write it as hf:OWNER/NAME[/FOLDER][:CONFIG][@REVISION][#SPLIT].")
    name, folder = match["name"], ""
    if not Path(name).is_dir():
        owner, _, rest = name.partition("/")
        repository, _, folder = rest.partition("/")
        name = f"{owner}/{repository}" if repository else owner
    yield from _loaded(spec, name, match["config"], folder, match["revision"], match["splits"])


def folder_records(folder: Path) -> Iterator[tuple[str, Record]]:
    """Yield the records of a saved Dataset or DatasetDict, or of a folder of data files that `load_dataset` reads."""
    if any((folder / name).is_file() for name in SAVED):
        return _saved(folder)
    if what := next((what for name, what in MODELS if (folder / name).is_file()), ""):
        raise DataError(
            f'{folder}: is {what}, and rows are wanted. Give a folder of "steer data" or "steer label", or a file.'
        )
    if (folder / "config.json").is_file() or not _data_files(folder):
        raise DataError(
            f"{folder}: is neither a saved datasets folder nor one with rows.jsonl (or .parquet). Name one file in it."
        )
    return _loaded(str(folder), str(folder), None, "", None, None)


def _data_files(folder: Path) -> list[Path]:
    """Return the files of a folder that may hold rows, but for hidden ones and those that describe a data set."""
    return sorted(
        path
        for path in folder.rglob("*")
        if _format(path)
        and path.name not in (*SAVED, *DESCRIBE)
        and not any(part.startswith((".", "__")) for part in path.relative_to(folder).parts)
    )


def _format(path: Path) -> str:
    suffix, packing = form(path)
    return "" if suffix == ".parquet" and packing else FORMATS.get(suffix, "")


def _check_whole(folder: Path) -> None:
    """Refuse a folder of which `load_dataset` reads a part: one format, suffixes in small letters, splits by name.

    Files in other folders than those that it reads are other parts of a published set.
    """
    import datasets

    files = _data_files(folder.resolve())
    formats = {_format(path): path.name for path in files}
    if len(formats) > 1:
        named = " and ".join(f"{kind} ('{name}')" for kind, name in sorted(formats.items()))
        raise DataError(f"{folder}: holds {named}, of which one would be read. Give one of them, and others by --mix.")
    lost = [path for path in files if form(path)[0] not in path.name]  # a suffix in capitals
    if not lost:
        splits = datasets.load_dataset_builder(str(folder)).config.data_files or {}
        used = {Path(path) for paths in splits.values() for path in paths}
        lost = [path for path in files if path not in used and path.parent in {other.parent for other in used}]
    if lost:
        more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
        remedy = "Name all alike (train-1.jsonl, train-2.jsonl, in small letters), or give them one by one, with --mix"
        raise DataError(f"{folder}: '{lost[0].name}'{more} would not be read with the others. {remedy}.")


def _declares(folder: Path) -> bool:
    """Whether the card of a data set says which files are read."""
    from huggingface_hub import metadata_load

    card = folder / "README.md"
    return card.is_file() and "configs" in (metadata_load(card) or {})


def _loaded(
    place: str, name: str, config: str | None, folder: str, revision: str | None, splits: str | None
) -> Iterator[tuple[str, Record]]:
    import datasets
    from datasets.exceptions import DatasetsError

    quiet = Path(name).is_dir() and datasets.is_progress_bar_enabled()  # a bar is for what is downloaded
    try:
        if quiet:
            datasets.disable_progress_bars()
        if Path(name).is_dir() and not _declares(Path(name)):
            _check_whole(Path(name))
        loaded = datasets.load_dataset(name, config, data_dir=folder or None, revision=revision)
        wanted = splits.split(",") if splits else list(loaded)
        for split in wanted:
            if split not in loaded:
                raise DataError(f"{place}: no split '{split}'; known: {', '.join(loaded)}. Name one of them after '#'.")
        yield from _rows(name, [(split, loaded[split]) for split in wanted])
    except DataError:
        raise
    except (OSError, ValueError, ArithmeticError, KeyError, TypeError, DatasetsError) as error:
        problem = " ".join(str(error.__cause__ or error).split())[:300].rstrip(".")
        remedy = "Check the name, the network and HF_TOKEN; a dataset with several configs wants :CONFIG"
        raise DataError(f"{place}: cannot be loaded ({problem}). {remedy}.") from None
    finally:
        if quiet:
            datasets.enable_progress_bars()


def _saved(folder: Path) -> Iterator[tuple[str, Record]]:
    """Yield the rows of a saved Dataset, or of every split of a DatasetDict with the column `split` added."""
    import datasets

    try:
        loaded = datasets.load_from_disk(str(folder))
        splits = loaded.items() if isinstance(loaded, datasets.DatasetDict) else [("", loaded)]
        yield from _rows(str(folder), splits)
    except DataError:
        raise
    except (OSError, ValueError, ArithmeticError, KeyError, TypeError) as error:
        raise DataError(f"{folder}: not a whole saved dataset ({error}). Save it again.") from None


def _rows(name: str, splits: Any) -> Iterator[tuple[str, Record]]:
    for split, part in splits:
        place = f"{name}/{split}" if split else name
        for number, record in enumerate(part.with_format(None), start=1):
            row = plain_record(record)
            yield f"{place}: row {number}", {"split": split, **row} if split else row


def memory_records(rows: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, Record]]:
    """Yield the records of dicts, a datasets.Dataset or a DatasetDict with their places, "rows: row N"."""
    if isinstance(rows, Mapping):
        yield from _rows("rows", rows.items())
    elif hasattr(rows, "with_format"):
        yield from _rows("rows", [("", rows)])
    else:
        for number, record in enumerate(rows, start=1):
            if not isinstance(record, Mapping):
                raise DataError(f"rows: row {number}: is {type(record).__name__}, wanted a dict.")
            yield f"rows: row {number}", {name: _python(value) for name, value in record.items()}


def _python(value: Any) -> Any:
    """Return plain Python for numbers and arrays of numpy, and other values unchanged."""
    if isinstance(value, Mapping):
        return {key: _python(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_python(inner) for inner in value]
    return value.tolist() if hasattr(value, "tolist") else value


def plain_record(record: dict[str, Any]) -> Record:
    """Return JSON types (a duration in seconds), without the nulls of Arrow for keys that a nested object lacks."""
    return {name: _plain(value) for name, value in record.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    if isinstance(value, timedelta):  # a Timedelta of pandas too, which has an isoformat
        return value.total_seconds()
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return float(value) if type(value).__name__ == "Decimal" else value
