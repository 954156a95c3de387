"""Copy a TinyStories model and name the token that ends its texts: `python story_model.py FROM TO`.

llama2.c writes `<s>` between stories and never trained `</s>`, so a policy that waited for `</s>` would not end.
"""

import json
import shutil
import sys
from pathlib import Path

source, copy = map(Path, sys.argv[1:])
shutil.copytree(source, copy, copy_function=shutil.copyfile)
for name, key, value in (
    ("tokenizer_config.json", "eos_token", "<s>"),
    ("config.json", "eos_token_id", 1),
    ("generation_config.json", "eos_token_id", 1),
):
    path = copy / name
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}, indent=2))
