"""What each target obtained, with 95 % intervals over prompts: `python obtained.py FOLDER` of labelled responses."""

import sys
from pathlib import Path

import numpy as np

from steer.evaluate.statistics import interval
from steer.rows import prompt_key, read_all
from steer.schema import AttributeSchema

schema = AttributeSchema.load(Path(sys.argv[1]) / "schema.json")
rows = read_all(sys.argv[1])
print("mean of the logs in each level: " + "; ".join(f"{n} {_}" for n, _ in ()), end="") if False else None
for asked in dict.fromkeys(row["asked"] for row in rows):
    mine = [row for row in rows if row["asked"] == asked]
    prompts = np.array([prompt_key(row) for row in mine])
    cells = []
    for name, level in mine[0]["target"].items():
        got = interval([row["predicted"][name] for row in mine], prompts)
        cells.append(f"{name} {got.text()} (logs {schema[name].centres[level]:.2f})")
    print(f"{asked}: {len(mine)} responses, {', '.join(cells)}")
