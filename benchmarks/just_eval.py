"""Split rated answers and short logs by prompt, for a comparison of policies that a scorer of other prompts judges.

    python benchmarks/just_eval.py RATED LOGS FOLDER

RATED: answers with scores (just_eval_rated.jsonl.gz); LOGS: answers to the same prompts without scores. Into FOLDER:
judge.jsonl, the rated answers to about half of the prompts, for the scorer that evaluation sees; seen.jsonl, those to
35 %, for the scorer that labels; logs.jsonl, the logged answers to these, to train on, and to the last 15 %, which
policies answer.
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import steer


def share(row: Mapping[str, Any]) -> float:
    """Place of the row's prompt in a random order of all, from 0 to 1; the same wherever the prompt stands."""
    return zlib.crc32(str(row["prompt"][-1]["content"]).encode()) / 2**32


def main() -> None:
    """Read, split by prompt, write."""
    parser = argparse.ArgumentParser()
    for name in ("rated", "logs", "folder"):
        parser.add_argument(name)
    args = parser.parse_args()
    rated, logs = (list(steer.read_rows(path)) for path in (args.rated, args.logs))
    parts = {
        "judge": [{**row, "split": "train"} for row in rated if share(row) < 0.5],
        "seen": [{**row, "split": "train"} for row in rated if 0.5 <= share(row) < 0.85],
        "logs": [{**row, "split": "train" if share(row) < 0.85 else "test"} for row in logs if share(row) >= 0.5],
    }
    folder = Path(args.folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in parts.items():
        steer.write_rows(rows, folder / f"{name}.jsonl")
        print(f"{name}: {len(rows)} rows, {len({share(row) for row in rows})} prompts")


if __name__ == "__main__":
    main()
