"""TinyStories -> rows: the first sentence of a paragraph is the prompt, the rest of the paragraph the response.

python stories.py tinystories_sample.txt.gz stories.jsonl
"""

import gzip
import json
import re
import sys
from collections.abc import Iterator


def paragraphs(text: str) -> Iterator[dict[str, str]]:
    """Rows of all paragraphs with two sentences or more, cut where no quotation is open."""
    for line in text.replace("<|endoftext|>", "\n").splitlines():
        found = re.fullmatch(r'(.{10,}?[.!?]"?) +(.+)', line.strip())
        if found and all(part.count('"') % 2 == 0 for part in found.groups()):
            yield {"prompt": found[1], "response": found[2]}


if __name__ == "__main__":
    with gzip.open(sys.argv[1], "rt", encoding="utf-8") as source, open(sys.argv[2], "w", encoding="utf-8") as out:
        out.writelines(json.dumps(row) + "\n" for row in paragraphs(source.read()))
