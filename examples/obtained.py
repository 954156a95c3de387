"""Mean scores of labelled folders side by side, with 95 % intervals over prompts: `python obtained.py FOLDER ...`."""

import sys

import numpy as np

from steer.evaluation.statistics import interval
from steer.rows import prompt_key, read_rows

for folder in sys.argv[1:]:
    rows = read_rows(folder)
    prompts = np.array([prompt_key(row) for row in rows])
    cells = [
        f"{name} {interval([row['predicted'][name] for row in rows], prompts).text()}" for name in rows[0]["predicted"]
    ]
    print(f"{folder}: {len(rows)} responses, {', '.join(cells)}")
