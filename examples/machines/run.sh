#!/usr/bin/env bash
# From rated rows and logs to a compared policy: data, fit, label, train, iterate, compare.
#   bash examples/machines/run.sh DATA MACHINE OUT [RATED LOGS]
# DATA: just_eval (give RATED and LOGS by path) or helpsteer2 (from the hub). MACHINE: laptop, gpu24 or gpus8. Every stage
# resumes where it stopped. MODEL=FOLDER takes another base than the machine's train.yaml names.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
data=$here/../$1 machine=$here/$2 out=$3 rated=${4:-} logs=${5:-hf:nvidia/HelpSteer2}
model=${MODEL:-$(sed -n 's/^model: //p' "$machine/train.yaml")}
train="steer train"
if [ "$2" = gpus8 ]; then train="torchrun --nproc_per_node 8 -m steer train"; fi
mkdir -p "$out/short"
steer data "$logs" --config "$data/data.yaml" --output "$out/logs"
logs=$out/logs
if [ "$2" = laptop ]; then
  [ -e "$out/short/rows.jsonl" ] || python "$here/../short_rows.py" "$logs" "$out/short/rows.jsonl" --rows 750
  logs=$out/short/rows.jsonl
fi
steer fit ${rated:+"$rated"} --config "$data/fit.yaml" --output "$out/scorer"
steer label "$logs" --config "$data/label.yaml" --scorer "$out/scorer" --output "$out/labels"
$train "$out/labels" --config "$machine/train.yaml" --model "$model" --output "$out/policy"
steer iterate "$out/labels" --config "$machine/iterate.yaml" --train "$machine/train.yaml" --model "$model" \
  --policy "$out/policy" --scorer "$out/scorer" --output "$out/rounds"
steer compare "$out/labels" --config "$machine/compare.yaml" --train "$machine/train.yaml" --model "$model" \
  --scorer "$out/scorer" --output "$out/compared"
