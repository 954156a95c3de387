#!/usr/bin/env bash
# Offline and on-policy methods on the same bases, one split and one number of optimizer steps.
#   bash benchmarks/methods.sh WORLD [TRAIN [OUTPUT]]
# WORLD: the folder of `steer world --bases N`; TRAIN: settings of training, WORLD/train.json; OUTPUT: methods.
# Every method takes its own share of the learning rate. Methods that compare the policy with where it starts, or draw
# from it, stand behind a likelihood stage of the same steps (after=mle), as their papers have it. What is drawn in rounds is
# drawn for 500 prompts a round, eight responses each (`expert-iteration` and `rso`: sixteen in their one round, `sppo`: five,
# `rebel`: two, `quark` and `spin`: one).
# It takes as long as its runs are many: for each base 39 trainings on the logs (28 s of `mle`, 54 s of `dpo`, 512 s of `grpo` in
# docs/results.md), and 21 rounds, which draw 62,000 responses and train as long; then 49 policies answer.
# `steer compare --dry-run` with these flags says how long that is on a machine.
# RATES: learning rates that were tuned before (steer compare --rates), those of benchmarks/rates.json, which this script chose
# with TUNE=3 RATES=. TUNE=3 tries three for each method that RATES lacks, chosen by the proxy: 147 tries where it is empty.
# METHODS: others than those below.
set -euo pipefail
world=${1:?the folder of steer world}
train=${2:-$world/train.json}
output=${3:-methods}
rates=${RATES-$(dirname "$0")/rates.json}
bases=()
for base in "$world"/base-*; do [ -d "$base" ] && bases+=(--base "$base"); done
methods=${METHODS:-mle mle:after=mle filtered rwr:beta=1 rwr:beta=0.5 awr raft:after=mle,rounds=2,prompts_per_round=500
  unlikelihood rrhf:after=mle pro slic:after=mle dpo dpo:after=mle ipo:after=mle
  rso:after=mle,rounds=1,n=16,prompts_per_round=500 remax:after=mle rloo:k=2,after=mle ppo:after=mle grpo:k=4,after=mle kto:after=mle
  contrastive:after=mle mle:best_of=4 conditional directional steerlm2:prompts_per_round=500 quark:prompts_per_round=500
  prompted few-shot steering directional:after=mle quark:after=mle,prompts_per_round=500 feedme:after=mle
  binary-reward-conditioning:after=mle simpo:after=mle orpo cpo:after=mle odpo:after=mle rpo:after=mle apo:after=mle
  dpop:after=mle bco:after=mle rebel:after=mle,prompts_per_round=500 bond:after=mle,prompts_per_round=500
  spin:after=mle,prompts_per_round=500 sppo:after=mle,prompts_per_round=500
  rest-em:prompts_per_round=500 rejection:after=mle,rounds=2,prompts_per_round=500
  expert-iteration:after=mle,rounds=1,n=16,prompts_per_round=500 coh c-rlft gedi reward-augmented:after=mle a-lol:after=mle}
named=()
for method in $methods; do named+=(--method "$method"); done
steer compare "$world/labels" --model "$world/base" "${bases[@]}" --train "$train" --gold data_recipes.world_text:Gold \
  --num-proc 2 --num-prompts 250 --grid 500 --max-new-tokens 120 --batch-size 128 --resamples 1000 --output "$output" \
  "${named[@]}" --tune "${TUNE:-0}" ${rates:+--rates "$rates"} >&2
python "$(dirname "$0")/bars.py" "$output"
