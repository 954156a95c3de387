"""Short logged answers, of all lengths: `python short_logs.py LOGS.jsonl.gz OUT.jsonl [PER_LENGTH]`.

Takes rows of one question of at most 300 letters and an answer of at most 160 words and 1,000 letters (text without
spaces counts as one word), at most three to a question, and of each length (up to 12, 25, 50, 100 and 160 words)
equally many, so that a model which is trained on few rows sees all of them.
"""

import gzip
import json
import random
import sys
from collections import Counter

LENGTHS = (12, 25, 50, 100, 160)


def main(logs: str, out: str, per_length: int = 200) -> None:
    """Read, choose, write."""
    with gzip.open(logs, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    random.seed(0)
    random.shuffle(rows)
    chosen, questions, lengths = [], Counter[str](), Counter[int]()
    for row in rows:
        words = len(row["response"].split())
        short = len(row["prompt"]) == 1 and len(row["prompt"][0]["content"]) <= 300 and len(row["response"]) <= 1000
        if not short or not 1 <= words <= LENGTHS[-1] or questions[row["group"]] == 3:
            continue
        length = next(i for i, most in enumerate(LENGTHS) if words <= most)
        if lengths[length] < per_length:
            chosen.append(row)
            questions[row["group"]] += 1
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
