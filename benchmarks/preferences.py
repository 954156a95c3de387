"""Split votes on pairs by question, for a comparison of policies that a scorer of other questions judges.

    python benchmarks/preferences.py PAIRS ANSWERS FOLDER [--pairs 320]

PAIRS: comparisons with the votes of several people (pairs_cragc25.jsonl.gz); ANSWERS: answers to more questions than
were compared (cragc25.jsonl.gz). Into FOLDER: judge.jsonl, comparisons of about half of the questions, for the scorer
that evaluation sees; seen.jsonl, those of the other half, for the scorer that training sees; logs.jsonl, so many
comparisons drawn from these, to train on, and the questions that nobody compared, which policies answer.
"""

from __future__ import annotations

import argparse
import random
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import steer

VOTES = {"preference": "votes.quality_overall"}


def question(row: Mapping[str, Any]) -> str:
    """Return what was asked."""
    return str(row["prompt"][-1]["content"])


def main() -> None:
    """Read, split by question, write."""
    parser = argparse.ArgumentParser()
    for name in ("pairs_file", "answers_file", "folder"):
        parser.add_argument(name)
    parser.add_argument("--pairs", type=int, default=320)
    args = parser.parse_args()
    sides: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
    for row in steer.read_rows(args.pairs_file, columns=VOTES):
        sides[zlib.crc32(question(row).encode()) % 2].append({**row, "split": "train"})
    judge, seen = sides
    compared = {question(row) for side in sides for row in side}
    answers = [row for row in steer.read_rows(args.answers_file) if question(row) not in compared]
    groups = sorted({row["group"] for row in seen})
    drawn = {*random.Random(0).sample(groups, min(args.pairs, len(groups)))}
    asked = [{name: row[name] for name in ("id", "prompt", "response")} | {"split": "test"} for row in answers]
    folder = Path(args.folder)
    folder.mkdir(parents=True, exist_ok=True)
    steer.write_rows(judge, folder / "judge.jsonl")
    steer.write_rows(seen, folder / "seen.jsonl")
    steer.write_rows([*(row for row in seen if row["group"] in drawn), *asked], folder / "logs.jsonl")
    for name, rows in (("judge", judge), ("seen", seen), ("asked", answers)):
        print(f"{name}: {len(rows)} rows, {len({question(row) for row in rows})} questions")


if __name__ == "__main__":
    main()
