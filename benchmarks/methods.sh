#!/usr/bin/env bash
# Offline and on-policy methods on the same bases, one split and one number of optimizer steps.
#   bash benchmarks/methods.sh WORLD [TRAIN [OUTPUT]]
# WORLD: the folder of `steer world --bases N`; TRAIN: settings of training, WORLD/train.json; OUTPUT: methods.
# Every method takes its own share of the learning rate. Methods that compare the policy with where it starts, or draw
# from it, stand behind a likelihood stage of the same steps (after=mle), as their papers have it. What is drawn in rounds is
# drawn for 500 prompts a round, eight responses each (`expert-iteration`: sixteen in its one round, `quark`: one).
# It takes as long as its runs are many: for each base 39 trainings on the logs (19 s of `mle`, 37 s of `dpo`, 302 s of `grpo` in
# docs/results.md), and 16 rounds, which draw 54,000 responses and train as long; then 46 policies answer. TUNE=3 adds 138 tries,
# once. `steer compare --dry-run` with these flags says how long that is on a machine.
# TUNE=3 tries three learning rates for each method first, chosen by the proxy (steer compare --tune).
set -euo pipefail
world=${1:?the folder of steer world}
train=${2:-$world/train.json}
output=${3:-methods}
bases=()
for base in "$world"/base-*; do [ -d "$base" ] && bases+=(--base "$base"); done
steer compare "$world/labels" --model "$world/base" "${bases[@]}" --train "$train" --gold data_recipes.world_text:Gold \
  --num-proc 2 --num-prompts 250 --grid 500 --max-new-tokens 120 --batch-size 128 --resamples 1000 --output "$output" \
  --method mle --method filtered --method rwr:beta=1 --method rwr:beta=0.5 --method awr --method raft \
  --method unlikelihood --method rrhf --method pro --method slic:after=mle --method dpo --method dpo:after=mle \
  --method ipo:after=mle --method rso:after=mle --method remax:after=mle --method rloo:k=2,after=mle \
  --method ppo:after=mle --method grpo:k=4,after=mle --method kto:after=mle --method contrastive:after=mle \
  --method mle:best_of=4 --method conditional --method directional --method steerlm2:prompts_per_round=500 \
  --method quark:prompts_per_round=500 --method prompted --method few-shot --method steering \
  --method directional:after=mle --method quark:after=mle,prompts_per_round=500 --method feedme:after=mle \
  --method binary-reward-conditioning:after=mle --method simpo:after=mle --method orpo --method cpo:after=mle \
  --method odpo:after=mle --method rpo:after=mle --method apo:after=mle --method dpop:after=mle --method bco:after=mle \
  --method rebel:after=mle,prompts_per_round=500 --method bond:after=mle,prompts_per_round=500 \
  --method spin:after=mle,prompts_per_round=500 --method rest-em:prompts_per_round=500 \
  --method rejection:after=mle,rounds=2,prompts_per_round=500 \
  --method expert-iteration:after=mle,rounds=1,n=16,prompts_per_round=500 \
  --method coh --method c-rlft --method gedi --method reward-augmented:after=mle \
  --tune "${TUNE:-0}" >&2
python "$(dirname "$0")/bars.py" "$output"
