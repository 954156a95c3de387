#!/usr/bin/env bash
# Methods on logged answers of 13 assistants, trained on a real chat model, judged by ratings of answers to other prompts.
#   bash benchmarks/just_eval.sh MODEL RATED LOGS [OUTPUT]
# MODEL: SmolLM2-135M-Instruct; RATED, LOGS: just_eval_rated.jsonl.gz and just_eval_outputs.jsonl.gz; OUTPUT: just_eval. Two
# scorers of words are fitted on the ratings of different prompts: one labels the logs and is the proxy, the other is gold.
# STEPS, PROMPTS, ROWS, LENGTH: 40 steps of 8, 64 held-out prompts, about 1,800 short rows of which half are left, of 200
# tokens at most; METHODS: others than those below. Run it again to go on where it stopped.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
model=${1:?the model} rated=${2:?rated answers} logs=${3:?logged answers} out=${4:-just_eval}
data=$here/../examples/just_eval
exec 3>&1 1>&2  # the table alone is what it prints
mkdir -p "$out"
steer data "$logs" --bad skip --output "$out/all"
[ -e "$out/short.jsonl" ] || python "$here/../examples/short_rows.py" "$out/all" "$out/short.jsonl" --rows "${ROWS:-1800}"
[ -e "$out/rows/logs.jsonl" ] || python "$here/just_eval.py" "$rated" "$out/short.jsonl" "$out/rows"
steer fit "$out/rows/seen.jsonl" --config "$data/fit.yaml" --output "$out/proxy"
steer fit "$out/rows/judge.jsonl" --config "$data/fit.yaml" --output "$out/gold"
steer label "$out/rows/logs.jsonl" --config "$data/label.yaml" --scorer "$out/proxy" --output "$out/labels"
cat > "$out/train.yaml" << YAML
max_length: ${LENGTH:-200}
batch_size: 8
max_steps: ${STEPS:-40}
max_new_tokens: 120
dtype: ${DTYPE:-auto}
YAML
methods=${METHODS:-prompted:guidance=1/2 mle mle:best_of=4 mle:after=mle filtered rwr dpo:after=mle kto:after=mle
  grpo:k=4,after=mle conditional:guidance=1/2}
named=()
for method in $methods; do named+=(--method "$method"); done
steer compare "$out/labels" --model "$model" --scorer "$out/proxy" --gold "$out/gold" --train "$out/train.yaml" \
  "${named[@]}" --num-prompts "${PROMPTS:-64}" --grid 0 --max-new-tokens 120 --temperature 0.7 \
  --batch-size 64 --num-proc 2 --output "$out/compared"
python "$here/bars.py" "$out/compared" >&3
