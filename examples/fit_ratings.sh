#!/usr/bin/env bash
# Fit scorers on real human ratings and label with them: seconds, no network.
#   bash examples/fit_ratings.sh ../shared        (the folder that holds data/)
set -euo pipefail
shared=$(cd "${1:?the folder that holds data/}" && pwd)
mkdir -p ratings && cd ratings
for name in nlg_novikova summeval; do
  steer fit "$shared/data/$name.jsonl.gz" --output "$name-scorer"
  steer label "$shared/data/$name.jsonl.gz" --scorer "$name-scorer" --output "$name-labels"
done
