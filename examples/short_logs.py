"""Short logged answers, of all lengths: `python short_logs.py LOGS.jsonl.gz OUT.jsonl [PER_LENGTH [MOST [QUESTIONS]]]`.

Takes rows of one question of at most 300 letters and an answer of at most 160 words and 1,000 letters (text without
spaces counts as one word), at most MOST (3) to a question, and of each length (up to 12, 25, 50, 100 and 160 words)
equally many (at most PER_LENGTH, 200), so that a model which is trained on few rows sees all of them. QUESTIONS: how
many questions, chosen at random, are looked at; 0 for all.
"""

import gzip
import json
import random
import sys
from collections import Counter

LENGTHS = (12, 25, 50, 100, 160)


def main(logs: str, out: str, per_length: int = 200, most: int = 3, questions: int = 0) -> None:
    """Read, choose, write."""
    with gzip.open(logs, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    random.seed(0)
    random.shuffle(rows)
    if questions:
        some = set(list(dict.fromkeys(row["group"] for row in rows))[:questions])
        rows = [row for row in rows if row["group"] in some]
    chosen, answered, lengths = [], Counter[str](), Counter[int]()
    for row in rows:
        words = len(row["response"].split())
        short = len(row["prompt"]) == 1 and len(row["prompt"][0]["content"]) <= 300 and len(row["response"]) <= 1000
        if not short or not 1 <= words <= LENGTHS[-1] or answered[row["group"]] == most:
            continue
        length = next(i for i, bound in enumerate(LENGTHS) if words <= bound)
        if lengths[length] < per_length:
            chosen.append(row)
            answered[row["group"]] += 1
            lengths[length] += 1
    random.shuffle(chosen)
    with open(out, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in chosen)
    print(
        f"{len(chosen)} of {len(rows)} rows: "
        + ", ".join(f"{lengths[i]} up to {n} words" for i, n in enumerate(LENGTHS))
    )


if __name__ == "__main__":
    main(*sys.argv[1:3], *map(int, sys.argv[3:]))
