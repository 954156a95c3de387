"""Rated sets as rows: `python examples/ratings.py DATA NAME OUT.jsonl`, where DATA holds NAME.jsonl.gz.

EmoBank's sentences get a prompt. Topical-Chat's context becomes turns, and every fourth conversation is taken; its
turns share a group and a split, so that no conversation is on both sides. The other sets go through as they are.
"""

import gzip
import json
import sys
import zlib
from pathlib import Path


def turns(text: str) -> list[dict[str, str]]:
    """A context with a turn a line, the last of which is the user's."""
    lines = [line for line in text.split("\n") if line.strip()] or ["Hello"]
    roles = ("user", "assistant") if len(lines) % 2 else ("assistant", "user")
    return [{"role": roles[i % 2], "content": line} for i, line in enumerate(lines)]


def main() -> None:
    """Read, correct, write."""
    data, name, out = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    with (
        gzip.open(data / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines,
        out.open("w", encoding="utf-8") as file,
    ):
        for line in lines:
            row = json.loads(line)
            if name == "emobank":
                row["prompt"] = "Write a sentence."
            if name == "topical_chat_turns":
                drawn, rest = divmod(zlib.crc32(row["group"].encode()), 4)
                if rest:
                    continue
                row["split"] = "test" if drawn % 10 == 0 else "train"
                row["prompt"] = turns(row["prompt"])
            if row["response"].strip():
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
