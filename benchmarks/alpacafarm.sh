#!/usr/bin/env bash
# The order of AlpacaFarm's Table 2 (2305.14387) in the embedded world, by the paper's protocol.
#   bash benchmarks/alpacafarm.sh OUTPUT [--toy]      (the same command goes on where it stopped)
# For each base: a supervised policy, two answers of it to every prompt, pairs annotated by 13 simulated annotators of
# whom a quarter of the votes is turned round, and a reward model fitted on these pairs. Direct methods train on the
# pairs, the others on what the reward model says; all start from the supervised policy, and take one number of steps.
# Judged by the same annotators without flips, on held-out prompts, against a fixed answer: see alpacafarm.py.
set -euo pipefail
out=${1:?a folder for all of it}
here=$(cd "$(dirname "$0")" && pwd)
export PYTHONPATH="$here/..${PYTHONPATH:+:$PYTHONPATH}"
pool=$here/../examples/alpacafarm_simulated.yaml
bases=3 text=8000 epochs=3 logs=5000 steps=240 asked=250 fresh=800 k=16 n=4/16/64
if [ "${2:-}" = --toy ]; then
  bases=2 text=1500 epochs=3 logs=240 steps=3 asked=12 fresh=12 k=2 n=2/4
fi
mkdir -p "$out"
python -c "import json; from steer.world import LORA; print(json.dumps(LORA | {'max_steps': $steps}))" > "$out/train.json"
steer data world --output "$out/logs" --size $logs --seed 500 >&2
for base in $(seq 0 $((bases - 1))); do
  at=$out/base-$base
  steer data world --output "$at/text" --size $text --primer 0.25 --seed $((100 + base)) >&2
  steer train "$at/text" --model "$at/text/model" --method mle --adapter none --learning-rate 3e-3 --weight-decay 0.01 \
    --num-train-epochs $epochs --seed "$base" --output "$at/sft" >&2
  steer generate "$at/sft" --input "$out/logs" --n 2 --sampling own --max-new-tokens 120 --batch-size 128 \
    --seed "$base" --output "$at/drawn" >&2
  cp "$out/logs/schema.json" "$at/drawn/"  # which end of each attribute is better, and its weight
  steer annotate "$at/drawn" --annotator "simulated:$pool" --output "$at/pairs" >&2
  steer fit "$at/pairs" --kind bradley-terry --output "$at/reward" >&2
  steer label "$at/pairs" --output "$at/preferred" >&2
  steer label "$at/pairs" --scorer "$at/reward" --output "$at/rewarded" >&2
  compared() {  # OUTPUT ROWS METHODS...
    steer compare "$2" --model "$at/sft" --seeds "${SEEDS:-1}" --scorer "$at/reward" \
      --gold benchmarks.alpacafarm:Truth --train "$out/train.json" --num-prompts $asked --grid 0 \
      --max-new-tokens 120 --batch-size 128 --resamples 500 --num-proc 2 --output "$1" "${@:3}" >&2
  }
  compared "$at/direct" "$at/preferred" --method feedme --method binary-reward-conditioning --method dpo
  compared "$at/surrogate" "$at/rewarded" --method quark:prompts_per_round=$fresh --method ppo \
    --method expert-iteration:rounds=1,n=$k,prompts_per_round=$fresh
  compared "$at/best-of" "$at/rewarded" --target none --method prompted:best_of=$n
done
python "$here/alpacafarm.py" "$out" "$pool"
