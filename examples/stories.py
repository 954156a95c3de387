"""TinyStories -> rows and a base model for them: `python stories.py SHARED` writes stories.jsonl and base/.

A row asks for the sentence that follows a sentence. Half of the responses hold speech, so that both kinds are seen.
"""

import gzip
import json
import random
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path


def sentences(text: str) -> Iterator[str]:
    """Sentences of a paragraph, cut where no quotation is open."""
    part = ""
    for sentence in re.findall(r'[^.!?]+[.!?]*"?\s*', text):
        part += sentence
        if part.count('"') % 2 == 0:
            yield part.strip()
            part = ""


def rows(text: str) -> list[dict[str, str]]:
    """Pairs of sentences in a random order, as many with speech in the response as without."""
    pairs = []
    for story in text.split("<|endoftext|>"):
        parts = [s for line in story.strip().splitlines() for s in sentences(line)]
        pairs += [{"prompt": a, "response": b} for a, b in zip(parts, parts[1:], strict=False)]
    random.Random(0).shuffle(pairs)
    speech = [pair for pair in pairs if '"' in pair["response"]]
    plain = [pair for pair in pairs if '"' not in pair["response"]]
    return [pair for both in zip(speech, plain, strict=False) for pair in both]


def base(source: Path, folder: Path) -> None:
    """A copy of the model whose end token is <s>: that stood between the stories it has read, never </s>."""
    folder.mkdir()
    for file in source.iterdir():
        shutil.copyfile(file, folder / file.name)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token": "<s>"}))


if __name__ == "__main__":
    shared = Path(sys.argv[1])
    with gzip.open(shared / "data" / "tinystories_sample.txt.gz", "rt", encoding="utf-8") as file:
        found = rows(file.read())
    Path("stories.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    base(shared / "models" / "stories260K", Path("base"))
    print(f"{len(found)} rows in stories.jsonl, the model in base/.")
