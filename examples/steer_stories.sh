#!/usr/bin/env bash
# Steer a real story model by length and share of dialogue: a few minutes on two cores.
#   bash examples/steer_stories.sh [MODEL [STORIES]]
# MODEL: a name on the hub, or a local folder; STORIES: a hub dataset with a column `text`, or a text file (.gz too) with
# <|endoftext|> between stories. Without them both come from the hub. Run it from any folder; it writes into ./stories.
set -euo pipefail
model=${1:-roneneldan/TinyStories-1M} stories=${2:-roneneldan/TinyStories}
here=$(cd "$(dirname "$0")" && pwd)
if [ -e "$model" ]; then model=$(realpath "$model"); fi
if [ -e "$stories" ]; then stories=$(realpath "$stories"); fi
mkdir -p stories && cd stories
if [ -d "$model" ]; then # llama2.c's models name an end token that they never trained
  test -d model || python "$here/story_model.py" "$model" model
  model=model
fi
test -f stories.jsonl || python "$here/stories.py" "$stories" stories.jsonl
steer label stories.jsonl --scorer countable:words,dialogue_share --bins quantile --levels 3 --output labels
# A model of this size never saw a tag: every level becomes a token of its own, and the rate is high.
steer train labels --model "$model" --output policy --condition-tokens special --max-length 200 \
  --learning-rate 1e-2 --batch-size 32 --max-steps 500 --micro-batch-tokens 2048
for target in words=0 words=1 words=2 dialogue_share=low dialogue_share=high; do
  steer generate policy --input labels --split test --limit 200 --target "$target" --sampling own --max-new-tokens 200 \
    --output "$target"
  steer label "$target" --scorer countable:words,dialogue_share --schema labels/schema.json --held-out 0 \
    --output "$target-obtained"
done
python "$here/obtained.py" words=0-obtained words=1-obtained words=2-obtained \
  dialogue_share=low-obtained dialogue_share=high-obtained
