"""Read records of Parquet, of any origin or as `steer` writes rows: with columns whose texts are JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from data_recipes import hub
from data_recipes.streams import DataError, Record, refuse

JSON_TEXT = {b"text": b"json"}  # metadata of a column whose texts are JSON
NO_NULLS = {b"null": b"absent"}  # metadata of a file: what is null in it was not there

Restore = Callable[[Any], Any]  # a value that is not null -> what it was


def records(path: Path, bad: list[str] | None) -> Iterator[tuple[str, Record]]:
    """Yield the records of a file with their places, "path: row N"."""
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
            if name := next((name for name in schema.names if schema.names.count(name) > 1), ""):
                raise DataError(f"{path}: has two columns named '{name}'. Rename one of them.")
            whole = (schema.metadata or {}).items() >= NO_NULLS.items()
            restores = {field.name: restore for field in schema if (restore := _restore(field))}
            for batch in file.iter_batches(batch_size=1000):
                for record in batch.to_pylist():
                    number += 1
                    if whole:
                        record = {name: value for name, value in record.items() if value is not None}
                    row = hub.plain_record(record)
                    for name, restore in restores.items():
                        if row.get(name) is not None:
                            row[name] = restore(row[name])
                    yield f"{path}: row {number}", row
    except DataError:
        raise
    except (pyarrow.ArrowException, OSError) as error:
        refuse(DataError(f"{path}: row {number + 1}: not Parquet ({error}). Copy or write it again."), bad)
    except (ValueError, ArithmeticError) as error:  # flipped bytes in texts, a date beyond the year 9999
        problem = f"{path}: row {number + 1}: holds a value that cannot be read ({error})"
        refuse(DataError(f"{problem}. Copy the file again, or write that column as text."), bad)


def _restore(field: Any) -> Restore | None:
    """Return what makes the values of a column what they were, None if nothing has to be done."""
    import pyarrow.types

    if (field.metadata or {}).items() >= JSON_TEXT.items():
        return json.loads
    if pyarrow.types.is_list(field.type) and (each := _restore(field.type.value_field)):
        return lambda values: [each(value) for value in values]
    if pyarrow.types.is_struct(field.type):
        inner = {part.name: restore for part in field.type if (restore := _restore(part))}
        if inner:
            return lambda value: {n: inner[n](v) if n in inner else v for n, v in value.items()}
    return None
