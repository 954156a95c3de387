#!/usr/bin/env bash
# Fit two scorers on human ratings, label with one of them, and print how well each predicts held-out prompts.
#   bash examples/fit_ratings.sh [ENCODER [RATED...]]
# ENCODER: any Hugging Face model by name or folder, whose hidden states `embeddings` reads; `linear` reads words. RATED:
# rows with scores, as files or hf:OWNER/NAME. Without them all comes from the hub. It writes into ./ratings.
set -euo pipefail
model=${1:-sentence-transformers/all-MiniLM-L6-v2}
here=$(cd "$(dirname "$0")" && pwd)
rated=("${@:2}")
if [ ${#rated[@]} = 0 ]; then rated=("hf:nvidia/HelpSteer2#validation"); fi
if [ -e "$model" ]; then model=$(realpath "$model"); fi
mkdir -p ratings
scorers=()
for source in "${rated[@]}"; do
  name=$(basename "$source") && name=ratings/${name%%[.#]*}
  steer fit "$source" --kind linear --output "$name-linear"
  steer fit "$source" --kind embeddings --model "$model" --set pooling=mean --output "$name-embeddings"
  steer label "$source" --scorer "$name-linear" --output "$name-labels"
  scorers+=("$name-linear" "$name-embeddings")
done
python "$here/spearman.py" "${scorers[@]}"
