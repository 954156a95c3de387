#!/usr/bin/env bash
# Claims of the field about its methods, tested on the embedded world.
#   bash benchmarks/claims.sh WORLD [TRAIN [OUTPUT]]      (as for methods.sh)
# RATES: every method at the learning rate that was tuned for it: benchmarks/rates.json, or a folder of TUNE=3 methods.sh.
set -euo pipefail
world=${1:?the folder of steer world}
train=${2:-$world/train.json}
output=${3:-claims}
rates=${RATES-$(dirname "$0")/rates.json}
bases=()
for base in "$world"/base-*; do [ -d "$base" ] && bases+=(--base "$base"); done
root=$(cd "$(dirname "$0")/.." && pwd)
PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" python -m benchmarks.claims "$world/labels" --model "$world/base" \
  "${bases[@]}" --train "$train" --gold data_recipes.world_text:Gold --num-proc 2 --num-prompts 250 --max-new-tokens 120 --batch-size 128 --output "$output" \
  ${rates:+--rates "$rates"} >&2
cat "$output/claims.md"
