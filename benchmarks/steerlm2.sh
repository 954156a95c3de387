#!/usr/bin/env bash
# SteerLM 2 on top of a conditional policy of the world, and what gold says of both on held-out prompts at `best`.
#   bash benchmarks/steerlm2.sh world        (the folder of `make world`; ten minutes on two cores)
set -euo pipefail
world=${1:?the folder of make world}
policy=$world/compare/runs/conditional-seed0/policy
gold=data_recipes.world_text:Gold
steer generate "$policy" --input "$world/labels" --split train --limit 300 --n 8 --sampling own --output drawn --allow-unsupported \
  --target best --target "warmth=4 helpfulness=4" --target verbosity=1 --max-new-tokens 120 --batch-size 128
steer label drawn --scorer "$world/scorer" --schema "$world/labels/schema.json" --held-out 0 --output rows
for tempered in false true; do
  steer train rows --model "$world/base" --config "$world/train.json" --init "$policy" --method steerlm2 \
    --set tempered=$tempered --learning-rate 5e-4 --max-steps 120 --held-out 0 --output tempered-$tempered
done
for name in start tempered-false tempered-true; do
  from=$name; [ $name = start ] && from=$policy
  steer generate "$from" --input "$world/labels" --split test --limit 245 --target best --output answers-$name \
    --sampling own --max-new-tokens 120 --batch-size 128
  steer label answers-$name --scorer $gold --schema "$world/labels/schema.json" --held-out 0 --output gold-$name
done
python - <<'END'
import numpy as np
from steer.evaluation.statistics import interval
from steer.rows import read_rows

found = {n: np.array([r["reward"] for r in read_rows(f"gold-{n}")]) for n in ("start", "tempered-false", "tempered-true")}
each = np.arange(len(found["start"]))
print("| policy | gold reward at best, sd | less the policy it starts from |\n| --- | --- | --- |")
for name, rewards in found.items():
    more = "-" if name == "start" else interval(rewards - found["start"], each).text()
    print(f"| {name} | {interval(rewards, each).text()} | {more} |")
END
