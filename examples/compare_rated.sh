#!/usr/bin/env bash
# Conditional fine-tuning beside mle, filtered, rwr and dpo on real ratings, judged by a scorer that training never saw.
#   bash examples/compare_rated.sh [MODEL [LOGS JUDGE]]
# LOGS: rated rows to train and evaluate on, and to fit the proxy on; JUDGE: other rated rows, for the gold scorer. The
# proxy reads words, gold the hidden states of the model; both are freed of their liking for length. Without arguments
# model and rows come from the hub. It writes into ./rated.
# DOMAIN=STEPS: learn the domain first (mle, all weights), for a model that is as small as a story model. DRAW=1: logs
# have one response a prompt, and dpo needs another, so every method gets one of the base's.
set -euo pipefail
model=${1:-HuggingFaceTB/SmolLM2-135M-Instruct}
logs=${2:-hf:nvidia/HelpSteer2#validation} judge=${3:-hf:nvidia/HelpSteer2#train}
domain=${DOMAIN:-0} draw=${DRAW:-0} tuned=${TUNED:-80} seeds=${SEEDS:-2} longest=${LONGEST:-1024} new=${NEW:-256}
for name in model logs judge; do # a path stays the same from within ./rated
  if [ -e "${!name}" ]; then declare "$name=$(realpath "${!name}")"; fi
done
mkdir -p rated && cd rated
steer data "$logs" --output logs
steer fit logs --debias words --output proxy
steer fit "$judge" --limit 8000 --kind embeddings --model "$model" --set pooling=mean --debias words --output gold
if [ "$domain" != 0 ]; then
  steer train logs --model "$model" --method mle --output base --adapter none --learning-rate 1e-3 --batch-size 32 \
    --max-steps "$domain" --micro-batch-tokens 2048 --max-length "$longest"
  model=base/model
fi
rows=logs
if [ "$draw" = 1 ]; then
  steer generate "$model" --input logs --split train --sampling own --max-new-tokens "$new" --batch-size 128 \
    --output drawn
  cat logs/rows.jsonl drawn/rows.jsonl > both.jsonl && rows=both.jsonl
fi
steer label "$rows" --scorer proxy --bins quantile --levels 3 --output labels
# The model never saw a tag: every level becomes a token of its own.
printf '%s\n' "condition_tokens: special" "learning_rate: ${RATE:-1e-3}" "batch_size: 16" "max_steps: $tuned" \
  "micro_batch_tokens: 2048" "max_length: $longest" > train.yaml
steer compare labels --model "$model" --method mle --method filtered:keep=0.5/0.2 --method rwr:beta=1/0.5 \
  --method dpo:rate=0.1 --method conditional --gold gold --seeds "$seeds" --num-prompts 200 --grid 200 \
  --max-new-tokens "$new" --batch-size 128 --train train.yaml --num-proc 2 --controls --output comparison
