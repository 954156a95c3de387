#!/usr/bin/env bash
# Methods on the votes of people on pairs of answers, trained on a real chat model, judged by votes on other questions.
#   bash benchmarks/preferences.sh MODEL PAIRS ANSWERS [OUTPUT]
# MODEL: SmolLM2-135M-Instruct; PAIRS, ANSWERS: pairs_cragc25.jsonl.gz and cragc25.jsonl.gz; OUTPUT: preferences. Every
# method sees the same 320 comparisons, of one half of the questions that were compared; gold is a Bradley-Terry model of
# the votes on the other half; answers are to questions that nobody compared. STEPS, PROMPTS: 40 steps of 8, 48 questions;
# METHODS: others than those below. `mle:after=mle` is what the steps in front of kto and dpo do by themselves. Two hours on
# two cores, of which dpo, kto and orpo take half; run it again to go on where it stopped.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
model=${1:?the model} pairs=${2:?comparisons with votes} answers=${3:?answers to more questions} out=${4:-preferences}
mkdir -p "$out"
[ -e "$out/rows/logs.jsonl" ] || python "$here/preferences.py" "$pairs" "$answers" "$out/rows"
steer fit "$out/rows/seen.jsonl" --kind bradley-terry --output "$out/proxy"
steer fit "$out/rows/judge.jsonl" --kind bradley-terry --output "$out/gold"
steer label "$out/rows/logs.jsonl" --output "$out/labels"
cat > "$out/train.yaml" << YAML
max_length: 640
batch_size: 8
max_steps: ${STEPS:-40}
micro_batch_tokens: 2048
dtype: ${DTYPE:-auto}
phrase: ["preference=Give an answer that most readers like less.|Give the answer that most readers like best."]
YAML
methods=${METHODS:-prompted:guidance=1/2 mle mle:best_of=4 feedme rwr mle:after=mle kto:after=mle dpo:after=mle orpo
  binary-reward-conditioning conditional:guidance=1/2}
named=()
for method in $methods; do named+=(--method "$method"); done
steer compare "$out/labels" --model "$model" --scorer "$out/proxy" --gold "$out/gold" --train "$out/train.yaml" \
  "${named[@]}" --num-prompts "${PROMPTS:-48}" --grid 0 --max-new-tokens 300 --temperature 0.7 \
  --batch-size 48 --num-proc 2 --output "$out/compared"
