#!/usr/bin/env bash
# Conditional fine-tuning beside mle, filtered, rwr and dpo on real ratings, judged by a scorer that training never saw.
#   bash examples/compare_rated.sh ../shared topical_chat_turns      (or summeval)
# A story model of 260,000 parameters learns the domain first (mle, all weights); that is the base of every method. The
# proxy reads words and is fitted on the logs; gold reads the hidden states of the story model and is fitted on other
# conversations or articles. Both are freed of their liking for length. It writes into ./rated-NAME; no network.
set -euo pipefail
shared=$(cd "${1:?the folder that holds data/ and models/}" && pwd)
name=${2:-topical_chat_turns}
here=$(cd "$(dirname "$0")" && pwd)
prompts=${PROMPTS:-2000} steps=${STEPS:-400} tuned=${TUNED:-80} seeds=${SEEDS:-2}
mkdir -p "rated-$name" && cd "rated-$name"
test -d model || python "$here/story_model.py" "$shared/models/stories260K" model
test -f judge.jsonl || python "$here/rated_logs.py" "$shared" "$name" . "$prompts"
steer fit logs.jsonl --debias words --output proxy
steer fit judge.jsonl --limit 8000 --kind embeddings --model model --set pooling=mean --debias words --output gold
steer train logs.jsonl --model model --method mle --output base --adapter none --learning-rate 1e-3 --batch-size 32 \
  --max-steps "$steps" --micro-batch-tokens 2048 --max-length 400
logs=logs.jsonl
if [ "$name" = topical_chat_turns ]; then # one response a prompt: dpo needs another, so every method gets one of the base's
  steer generate base --input logs.jsonl --split train --max-new-tokens 120 --batch-size 128 --output drawn
  cat logs.jsonl drawn/rows.jsonl > both.jsonl && logs=both.jsonl
fi
steer label "$logs" --scorer proxy --bins quantile --levels 3 --output labels
# The model never saw a tag: every level becomes a token of its own.
printf '%s\n' "condition_tokens: special" "learning_rate: 3e-3" "batch_size: 16" "max_steps: $tuned" \
  "micro_batch_tokens: 2048" "max_length: 400" > train.yaml
steer compare labels --model base/model --method mle --method filtered:keep=0.5/0.2 --method rwr:beta=1/0.5 \
  --method dpo:learning_rate=3e-4 --method conditional --gold gold --seeds "$seeds" --num-prompts 200 --grid 200 \
  --max-new-tokens 120 --batch-size 128 --train train.yaml --num-proc 2 --controls --output comparison
