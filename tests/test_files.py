"""Every format round trip, every error with its place, and nothing read before it is asked for."""

import csv
import decimal
import gzip
import io
import json
import random
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from data_recipes import files
from data_recipes.files import DataError

RECORDS = [
    {"prompt": "Say hi, please", "response": 'He said "hi"\nand left', "quality": "4"},
    {"prompt": "Écris", "response": "Ça va 🙂", "quality": ""},
]


def json_lines(records: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()


def cells(records: list[dict[str, Any]], delimiter: str = ",") -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(records[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue().encode()


TEXTS = {
    ".jsonl": (json_lines(RECORDS), [1, 2]),
    ".ndjson": (json_lines(RECORDS), [1, 2]),
    ".json": (json.dumps(RECORDS, indent=1).encode(), [2, 7]),
    ".csv": (cells(RECORDS), [2, 4]),
    ".tsv": (cells(RECORDS, "\t"), [2, 4]),
}
PACK = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}


def put(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def refusal(path: Path | str, after: int = 0) -> str:
    """The message of the error that comes after this many records."""
    records = files.records(path)
    for _ in range(after):
        next(records)
    with pytest.raises(DataError) as caught:
        next(records)
    return str(caught.value)


@pytest.mark.parametrize("packing", PACK)
@pytest.mark.parametrize("suffix", TEXTS)
def test_text_formats_give_the_records_and_their_lines(tmp_path: Path, suffix: str, packing: str) -> None:
    content, numbers = TEXTS[suffix]
    path = put(tmp_path / f"log{suffix}{packing}", PACK[packing](content))
    assert list(files.records(path)) == [(f"{path}:{n}", record) for n, record in zip(numbers, RECORDS)]


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(RECORDS), path)
    assert list(files.records(path)) == [(f"{path}: row {n}", record) for n, record in enumerate(RECORDS, start=1)]


def test_parquet_holds_json_types_and_no_filled_nulls(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    rows = [
        {
            "scores": {"a": 1.0, "b": None},
            "day": date(2026, 11, 21),
            "price": decimal.Decimal("1.5"),
            "turns": [{"x": 1}],
            "took": timedelta(minutes=1, milliseconds=500),
        },
        {"scores": {"a": None, "b": 2.0}, "day": None, "price": None, "turns": None, "took": None},
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    assert [record for _, record in files.records(path)] == [
        {"scores": {"a": 1.0}, "day": "2026-11-21", "price": 1.5, "turns": [{"x": 1}], "took": 60.5},
        {"scores": {"b": 2.0}, "day": None, "price": None, "turns": None, "took": None},
    ]


@pytest.mark.parametrize(("unit", "seconds"), [("s", 1500.0), ("ms", 1.5), ("us", 0.0015), ("ns", 0.000001)])
def test_durations_of_parquet_are_seconds(tmp_path: Path, unit: str, seconds: float) -> None:
    took = pyarrow.array([1500 if unit != "ns" else 1000, None], pyarrow.duration(unit))
    pyarrow.parquet.write_table(pyarrow.table({"took": took}), tmp_path / "log.parquet")
    assert [record for _, record in files.records(tmp_path / "log.parquet")] == [{"took": seconds}, {"took": None}]


def test_saved_dataset_and_dataset_dict(tmp_path: Path) -> None:
    import datasets

    part = datasets.Dataset.from_list(RECORDS)
    part.with_format("numpy").save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": part, "test": part}).save_to_disk(str(tmp_path / "both"))
    assert list(files.records(tmp_path / "one")) == [
        (f"{tmp_path}/one: row {n}", record) for n, record in enumerate(RECORDS, start=1)
    ]
    assert list(files.records(tmp_path / "both")) == [
        (f"{tmp_path}/both/{split}: row {n}", {"split": split, **record})
        for split in ("train", "test")
        for n, record in enumerate(RECORDS, start=1)
    ]


def test_run_folder(tmp_path: Path) -> None:
    put(tmp_path / "rows.jsonl", json_lines(RECORDS))
    assert list(files.records(tmp_path)) == [(f"{tmp_path}/rows.jsonl:{n}", r) for n, r in enumerate(RECORDS, start=1)]


def test_stdin() -> None:
    program = "from data_recipes import files; print(list(files.records('-')))"
    out = subprocess.run([sys.executable, "-c", program], input=json_lines(RECORDS), capture_output=True, check=True)
    assert out.stdout.decode().strip() == str([("stdin:1", RECORDS[0]), ("stdin:2", RECORDS[1])])


def test_importing_needs_the_standard_library_only() -> None:
    heavy = "{'pyarrow', 'zstandard', 'datasets', 'numpy', 'torch'}"
    program = f"import sys, data_recipes.files, data_recipes.layouts; print(sorted({heavy} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert out.stdout.decode().strip() == "[]"


def test_json_file_may_hold_lines_or_objects_over_several_lines(tmp_path: Path) -> None:
    lines = put(tmp_path / "lines.json", b"\n" + json_lines(RECORDS))
    assert list(files.records(lines)) == [(f"{lines}:2", RECORDS[0]), (f"{lines}:3", RECORDS[1])]
    pretty = put(tmp_path / "pretty.json", "\n".join(json.dumps(record, indent=1) for record in RECORDS))
    assert list(files.records(pretty)) == [(f"{pretty}:1", RECORDS[0]), (f"{pretty}:6", RECORDS[1])]


def test_a_long_array_on_one_line(tmp_path: Path) -> None:
    many = [{"n": i, "text": "word " * 50} for i in range(4000)]  # several read blocks
    path = put(tmp_path / "log.json", json.dumps(many))
    assert [record for _, record in files.records(path)] == many


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_packed_files_may_follow_each_other(tmp_path: Path, suffix: str) -> None:
    path = put(tmp_path / f"log.jsonl{suffix}", b"".join(PACK[suffix](json_lines([record])) for record in RECORDS))
    assert [record for _, record in files.records(path)] == RECORDS


def test_blank_lines_windows_newlines_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = put(tmp_path / "log.jsonl", b'\xef\xbb\xbf{"a": 1}\r\n\r\n{"a": 2}')
    assert list(files.records(path)) == [(f"{path}:1", {"a": 1}), (f"{path}:3", {"a": 2})]
    path = put(tmp_path / "log.csv", b"\xef\xbb\xbfa,b\r\n1,2\r\n\r\n,\r\n3,4\r\n")
    assert list(files.records(path)) == [(f"{path}:2", {"a": "1", "b": "2"}), (f"{path}:5", {"a": "3", "b": "4"})]


def test_csv_of_pandas_with_its_row_numbers_and_a_very_long_cell(tmp_path: Path) -> None:
    path = put(tmp_path / "log.csv", f",prompt\n0,{'x' * 200_000}\n")
    assert list(files.records(path)) == [(f"{path}:2", {"prompt": "x" * 200_000})]


def test_lines_of_a_text_file(tmp_path: Path) -> None:
    path = put(tmp_path / "asked.txt.gz", gzip.compress(b"one\n\n  two \r\n"))
    assert list(files.lines(path)) == [(f"{path}:1", "one"), (f"{path}:3", "two")]


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst", ".csv", ".json"])
def test_rows_come_before_a_later_line_is_looked_at(tmp_path: Path, suffix: str) -> None:
    good = {".csv": "a\n" + '"1"\n' * 3, ".json": "[" + '{"a": "1"},\n' * 3}.get(suffix, '{"a": "1"}\n' * 3)
    content = (good + ('"1"2' if suffix == ".csv" else '{"a" 1}')).encode()
    path = put(tmp_path / f"log{suffix}", PACK.get(Path(suffix).suffix, bytes)(content))
    records = files.records(path)
    assert [next(records)[1] for _ in range(3)] == [{"a": "1"}] * 3
    with pytest.raises(DataError, match="broken"):
        next(records)


def test_a_file_larger_than_a_block_is_not_read_whole(tmp_path: Path) -> None:
    path = put(tmp_path / "log.jsonl", b'{"a": 1}\n' * 500_000 + b"\xff")
    records = files.records(path)
    assert next(records) == (f"{path}:1", {"a": 1})
    with path.open("r+b") as file:  # what is not read yet can still change
        file.seek(-2, io.SEEK_END)
        file.write(b"\n5")
    assert sum(1 for _ in zip(range(499_999), records)) == 499_999
    with pytest.raises(DataError, match=f"{path}:500001: holds a number, not an object"):
        next(records)


BROKEN_JSON = [
    ('{"a": 1}\n{"a": 1,}\n', 1, "2:9: broken JSON (Expecting property name enclosed in double quotes"),
    ('{"a": 1}\n{"a": "cut', 1, "2:7: broken JSON (Unterminated string starting at)"),
    ("{}\n" + "[" * 100_000, 1, "2:1: broken JSON (maximum recursion depth exceeded"),
    ("{}\n" + "9" * 5000, 1, "2:1: broken JSON (Exceeds the limit"),
    ('{"a": 1} {"a": 2}', 0, "1:10: broken JSON (Extra data)"),
]


@pytest.mark.parametrize(("content", "after", "message"), BROKEN_JSON)
def test_broken_json_line(tmp_path: Path, content: str, after: int, message: str) -> None:
    path = put(tmp_path / "log.jsonl", content)
    found = refusal(path, after)
    assert found.startswith(f"{path}:{message}")
    assert found.endswith(". Repair or delete this line.")


BROKEN_ARRAY = [
    ('[\n{"a": 1},\n  {"a": tru}\n]', 1, "3:9: broken JSON (Expecting value)"),
    ('[{"a": 1}\n {"a": 2}]', 1, "2:2: broken JSON (expected ',' or a last ']')"),
    ('[{"a": 1},\n', 1, "2:1: broken JSON (expected ',' or a last ']')"),
    ('[{"a": 1}]\n{}', 1, "1:10: broken JSON (expected ',' or a last ']')"),
    ('{"a":\n 1}\n]', 1, "3:1: broken JSON (a ']' without its '[')"),
    ('{"a": 1\n"b": 2}', 0, "2:1: broken JSON (Expecting ',' delimiter)"),
    ("[\n" + "[" * 100_000, 0, "2:1: broken JSON (maximum recursion depth exceeded"),
]


@pytest.mark.parametrize(("content", "after", "message"), BROKEN_ARRAY)
def test_broken_json_file(tmp_path: Path, content: str, after: int, message: str) -> None:
    path = put(tmp_path / "log.json", content)
    assert refusal(path, after).startswith(f"{path}:{message}")


@pytest.mark.parametrize(
    ("line", "found"),
    [("[1]", "a list"), ('"x"', "a text"), ("3.5", "a number"), ("true", "true or false"), ("null", "null")],
)
def test_a_line_that_is_no_object(tmp_path: Path, line: str, found: str) -> None:
    path = put(tmp_path / "log.jsonl", f"{{}}\n{line}\n")
    assert refusal(path, after=1).startswith(f"{path}:2: holds {found}, not an object {{...}}. ")
    array = put(tmp_path / "log.json", f"[{{}},\n{line}]")
    assert refusal(array, after=1).startswith(f"{array}:2: holds {found}, not an object")
    assert ("suffix .json" in refusal(path, after=1)) == (found == "a list")


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.jsonl.gz", "a.csv.zst"])
@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_an_empty_file_holds_no_rows(tmp_path: Path, name: str, content: bytes) -> None:
    path = put(tmp_path / name, PACK[Path(name).suffix](content) if name.endswith(("gz", "zst")) else content)
    assert refusal(path) == f"{path}: holds no rows. Check the command that wrote it."


def test_no_rows_in_a_header_an_array_or_a_parquet_file(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"a": pyarrow.array([], pyarrow.int64())}), tmp_path / "a.parquet")
    for path in (put(tmp_path / "a.csv", "a,b\n"), put(tmp_path / "a.json", "[ ]"), tmp_path / "a.parquet"):
        assert refusal(path) == f"{path}: holds no rows. Check the command that wrote it."


def test_missing_file_and_unknown_suffix(tmp_path: Path) -> None:
    assert refusal(tmp_path / "no.jsonl") == f"{tmp_path}/no.jsonl: no such file or folder. Check the path."
    with pytest.raises(DataError, match="no such file or folder"):
        next(files.lines(tmp_path / "no.txt"))
    path = put(tmp_path / "log.xlsx", "x")
    assert refusal(path) == f"{path}: unknown suffix '.xlsx'; known: {files.KNOWN}."
    assert "unknown suffix '.parquet.gz'" in refusal(put(tmp_path / "log.parquet.gz", "x"))
    assert "can only be prompts, one a line" in refusal(put(tmp_path / "log.txt.gz", "x"))
    assert "neither a saved datasets folder nor one with rows.jsonl" in refusal(tmp_path)
    for name, what in (("model.json", "a scorer"), ("steer.json", "a policy")):
        put(tmp_path / name, "{}")
        assert refusal(tmp_path).startswith(f"{tmp_path}: is {what}, and rows are wanted. Give a folder of ")


def test_invalid_utf8_names_line_and_column(tmp_path: Path) -> None:
    path = put(tmp_path / "log.jsonl", '{"a": 1}\n{"a": "caf\xe9"}\n'.encode("latin1"))
    assert refusal(path, after=1).startswith(f"{path}:2:11: byte 0xe9 is not UTF-8. Convert the file")
    path = put(tmp_path / "log.csv", "a\ncaf\xe9\n".encode("latin1"))
    assert refusal(path).startswith(f"{path}:2:4: byte 0xe9 is not UTF-8.")


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_truncated_and_foreign_packed_files(tmp_path: Path, suffix: str) -> None:
    draw = random.Random(0)
    many = [{"n": draw.random()} for _ in range(50_000)]
    packed = PACK[suffix](json_lines(many))
    path = put(tmp_path / f"log.jsonl{suffix}", packed[: len(packed) * 3 // 4])
    found: list[dict[str, Any]] = []
    with pytest.raises(DataError) as caught:
        found.extend(record for _, record in files.records(path))
    assert 0 < len(found) < len(many)
    assert found == many[: len(found)]
    message = "cannot be unpacked (the packed data ends too early). Copy or download it again."
    assert str(caught.value) == f"{path}:{len(found) + 1}: {message}"
    assert "1: cannot be unpacked (" in refusal(put(tmp_path / f"text.csv{suffix}", "a,b\n1,2\n"))


BROKEN_CELLS = [
    ("a,b\n1,2,3\n", "2: has 3 cells where the header names 2. Put cells that hold"),
    ("a,b\n1\n", "2: has 1 cells where the header names 2. Put cells that hold"),
    ('a,b\n"x\ny",1\n"2"2,3\n', "4: broken row ("),
    ('a,b\n1,"never closed\n', "2: broken row (unexpected end of data)"),
    ("What is 2?,4,4.5\nx,y,z\n", "1: no header: cell 2 is '4'. The first line names the columns"),
    ("a,,b\n1,2,3\n", "1: no header: cell 2 is ''. The first line names the columns"),
    ("a,b,a\n1,2,3\n", "1: the header names the column 'a' twice"),
    ("a|b\n1|2\n", "1: the header is a single cell. Save with commas"),
]


@pytest.mark.parametrize(("content", "message"), BROKEN_CELLS)
def test_broken_csv(tmp_path: Path, content: str, message: str) -> None:
    path = put(tmp_path / "log.csv", content)
    after = 1 if message.startswith("4") else 0
    assert refusal(path, after).startswith(f"{path}:{message}")


def test_broken_parquet_and_broken_dataset(tmp_path: Path) -> None:
    path = put(tmp_path / "log.parquet", "nothing of the kind")
    assert refusal(path).startswith(f"{path}: row 1: not Parquet (")
    folder = tmp_path / "saved"
    folder.mkdir()
    put(folder / "dataset_info.json", "{}")
    put(folder / "state.json", "{}")
    assert refusal(folder).startswith(f"{folder}: not a whole saved dataset (")
