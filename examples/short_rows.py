"""Write short rows of logs as JSONL, all answers of prompts that are drawn at random: small data for small machines.

python examples/short_rows.py LOGS OUTPUT [--rows 600] [--words 80] [--characters 480] [--prompt-characters 240]
"""

from __future__ import annotations

import argparse
import random
from typing import Any

import steer

Row = dict[str, Any]


def short(rows: list[Row], most: argparse.Namespace) -> list[Row]:
    """Keep rows whose response and prompt are short. Characters count too: some languages write no spaces."""
    return [
        row
        for row in rows
        if len(row["response"].split()) <= most.words
        and len(row["response"]) <= most.characters
        and sum(len(turn["content"]) for turn in row["prompt"]) <= most.prompt_characters
    ]


def some(rows: list[Row], count: int, seed: int = 0) -> list[Row]:
    """Take about `count` rows, with all answers of the same prompts."""
    prompts: dict[str, list[Row]] = {}
    for row in rows:
        prompts.setdefault(str(row["prompt"]), []).append(row)
    order = sorted(prompts)
    random.Random(seed).shuffle(order)
    taken: list[Row] = []
    for prompt in order:
        if len(taken) >= count:
            break
        taken += prompts[prompt]
    return taken


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("logs")
    parser.add_argument("output")
    for name, number in {"rows": 600, "words": 80, "characters": 480, "prompt-characters": 240}.items():
        parser.add_argument(f"--{name}", type=int, default=number)
    most = parser.parse_args()
    everything = steer.read_rows(most.logs)
    kept = some(short(everything, most), most.rows)
    print(f"{len(everything)} rows in, {steer.write_rows(kept, most.output)} short ones out.")
