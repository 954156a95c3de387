"""TinyStories -> rows: the first sentence of a paragraph is the prompt, the rest of the paragraph the response.

python stories.py STORIES stories.jsonl, where STORIES is a text file (.gz too) with <|endoftext|> between stories, or a
hub dataset with a column `text`, such as roneneldan/TinyStories.
"""

import gzip
import json
import re
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

MOST = 12_000  # rows


def texts(source: str) -> Iterator[str]:
    """Stories of a file, or of the validation split of a hub dataset."""
    if not Path(source).is_file():
        from datasets import load_dataset

        yield from load_dataset(source, split="validation")["text"]
        return
    with (gzip.open if source.endswith(".gz") else open)(source, "rt", encoding="utf-8") as file:
        yield from file.read().split("<|endoftext|>")


def paragraphs(text: str) -> Iterator[dict[str, str]]:
    """Rows of all paragraphs with two sentences or more, cut where no quotation is open."""
    for line in text.splitlines():
        cut = re.fullmatch(r'(.{10,}?[.!?]"?) +(.+)', line.strip())
        if cut and all(part.count('"') % 2 == 0 for part in cut.groups()):
            yield {"prompt": cut[1], "response": cut[2]}


if __name__ == "__main__":
    rows = (row for text in texts(sys.argv[1]) for row in paragraphs(text))
    with open(sys.argv[2], "w", encoding="utf-8") as out:
        out.writelines(json.dumps(row) + "\n" for row in islice(rows, MOST))
