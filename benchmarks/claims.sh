#!/usr/bin/env bash
# What the field says of its methods, tried on the demo's world.
#   bash benchmarks/claims.sh WORLD [TRAIN [OUTPUT]]      (as for methods.sh)
set -euo pipefail
world=${1:?the folder of steer demo}
train=${2:-$world/train.json}
output=${3:-claims}
bases=()
for base in "$world"/base-*; do [ -d "$base" ] && bases+=(--base "$base"); done
steer compare "$world/labels" --model "$world/base" "${bases[@]}" --train "$train" --gold data_recipes.world_text:Gold \
  --suite claims --num-proc 2 --prompts 250 --max-new-tokens 120 --batch-size 128 --output "$output" >&2
cat "$output/claims.md"
