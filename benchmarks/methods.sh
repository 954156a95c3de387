#!/usr/bin/env bash
# Offline methods and two on-policy ones on one base, one split and one number of optimizer steps.
#   bash benchmarks/methods.sh demo        (the folder of `make demo`; half an hour on two cores)
# The likelihood methods share the demo's learning rate; preference and on-policy methods diverge at it and have their own.
set -euo pipefail
demo=${1:?the folder of make demo}
steer compare "$demo/labels" --model "$demo/base" --train "$demo/train.json" --gold data_recipes.world_text:Gold \
  --seeds 3 --num-proc 2 --prompts 250 --grid 500 --max-new-tokens 120 --batch-size 128 --resamples 1000 --output methods \
  --method mle --method filtered --method rwr:beta=1 --method rwr:beta=0.5 --method awr --method raft \
  --method unlikelihood:learning_rate=1e-3 --method rrhf --method pro --method slic:learning_rate=1e-3 \
  --method dpo:learning_rate=3e-4 --method ipo:learning_rate=1e-3 --method rso:learning_rate=3e-4 \
  --method remax:learning_rate=1e-3 --method rloo:learning_rate=1e-3 --method conditional
python "$(dirname "$0")/bars.py" methods
