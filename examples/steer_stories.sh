#!/usr/bin/env bash
# Steer a real story model by length and share of dialogue: about five minutes on two cores, no network.
#   bash examples/steer_stories.sh ../shared        (the folder that holds data/ and models/)
# Run it from any folder; it writes into ./stories.
set -euo pipefail
shared=$(cd "${1:?the folder that holds data/ and models/}" && pwd)
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p stories && cd stories
test -d model || python "$here/story_model.py" "$shared/models/stories260K" model
test -f stories.jsonl || python "$here/stories.py" "$shared/data/tinystories_sample.txt.gz" stories.jsonl
steer label stories.jsonl --scorer countable:words,dialogue_share --bins quantile --levels 3 --output labels
# The model has 260,000 parameters and never saw a tag: every level becomes a token of its own, and the rate is high.
steer train labels --model model --output policy --condition-tokens special --max-length 200 \
  --learning-rate 1e-2 --batch-size 32 --max-steps 500 --micro-batch-tokens 2048
for target in words=0 words=1 words=2 dialogue_share=low dialogue_share=high; do
  steer generate policy --input labels --split test --limit 200 --target "$target" --max-new-tokens 200 --output "$target"
  steer label "$target" --scorer countable:words,dialogue_share --schema labels/schema.json --held-out 0 \
    --output "$target-obtained"
done
python "$here/obtained.py" words=0-obtained words=1-obtained words=2-obtained \
  dialogue_share=low-obtained dialogue_share=high-obtained
