"""Rated sets for a comparison: `python rated_logs.py DATA topical_chat_turns|summeval FOLDER [PROMPTS]`.

DATA is the folder that holds NAME.jsonl.gz, a row a line: prompt, response, attributes, and a group.

Writes logs.jsonl (to train and evaluate policies on, and to fit the proxy on), and judge.jsonl: other conversations or
articles, for the scorer that only evaluation sees. Contexts are cut to what a model of 512 positions can read.
"""

import gzip
import json
import sys
import zlib
from pathlib import Path

NEAR = 200  # letters of the conversation before a turn, whole turns from its end
LEAD = 240  # letters of an article, whole sentences from its start
LONGEST = 320  # letters of a response


def near(text: str) -> str:
    """The end of a conversation."""
    lines = [line.strip() for line in text.split("\n") if line.strip()] or ["Hello"]
    while len(lines) > 1 and sum(map(len, lines)) > NEAR:
        lines = lines[1:]
    return "\n".join(lines)[-NEAR:]


def lead(text: str) -> str:
    """The start of an article."""
    start = ""
    for sentence in text.split(" . "):
        if start and len(start) + len(sentence) > LEAD:
            break
        start += sentence + " . "
    return start.strip()[:LEAD]


def main() -> None:
    """Read, cut, write."""
    data, name, out = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    most = int(sys.argv[4]) if len(sys.argv) > 4 else 10**9
    cut = near if name == "topical_chat_turns" else lead
    seen: set[str] = set()
    with (
        gzip.open(data / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines,
        (out / "logs.jsonl").open("w") as logs,
        (out / "judge.jsonl").open("w") as judge,
    ):
        for line in lines:
            row = json.loads(line)
            group = str(row.get("group") or row["prompt"])
            side, drawn = zlib.crc32(group.encode()) % 3, zlib.crc32(b"split " + group.encode()) % 4
            scores = {k: v for k, v in row["attributes"].items() if k not in ("sentiment", "conversation_rating")}
            kept = {"prompt": cut(row["prompt"]), "response": row["response"].strip()[:LONGEST], "scores": scores}
            if not kept["response"] or (side and kept["prompt"] not in seen and len(seen) >= most):
                continue
            if side:
                seen.add(kept["prompt"])
            (logs if side else judge).write(json.dumps({**kept, "split": "train" if drawn else "test"}) + "\n")


if __name__ == "__main__":
    main()
