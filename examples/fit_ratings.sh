#!/usr/bin/env bash
# Fit scorers on four sets of real human ratings, label with them, and print how well they predict: no network.
#   bash examples/fit_ratings.sh ../shared        (the folder that holds data/ and models/)
# `linear` reads words; `embeddings` reads the hidden states of a story model of 260,000 parameters, which is no match for
# news or dialogue: give the name of a real encoder as a second argument where the hub can be reached.
set -euo pipefail
shared=$(cd "${1:?the folder that holds data/ and models/}" && pwd)
here=$(cd "$(dirname "$0")" && pwd)
model=${2:-$shared/models/stories260K}
mkdir -p ratings && cd ratings
for name in summeval nlg_novikova emobank topical_chat_turns; do
  test -f "$name.jsonl" || python "$here/ratings.py" "$shared" "$name" "$name.jsonl"
  steer fit "$name.jsonl" --kind linear --output "$name-linear"
  steer fit "$name.jsonl" --kind embeddings --model "$model" --set pooling=mean --output "$name-embeddings"
  steer label "$name.jsonl" --scorer "$name-linear" --output "$name-labels"
done
python "$here/spearman.py" {summeval,nlg_novikova,emobank,topical_chat_turns}-{linear,embeddings}
