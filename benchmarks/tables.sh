#!/usr/bin/env bash
# Tables of the embedded world at one commit: three bases, the dial, the methods and the claims; the others have commands of their own.
# It replaces benchmarks/results/world.md, methods.md and claims.md whole, with what was written above their tables.
#   bash benchmarks/tables.sh [FOLDER]      (`make tables`; the same command goes on where it stopped)
# Expected on two quiet cores, in minutes of one core: world 60, claims 65; methods hours, as methods.sh says.
# Three learning rates of each method are tried first, and the claims take those that were chosen; TUNE=0 takes those of
# benchmarks/rates.json.
# The claims are about which of two runs is better, which 170 steps tell as well as 340 do and in half the time.
set -euo pipefail
out=${1:-tables}
export TUNE=${TUNE:-3}
here=$(dirname "$0")
commit=$(git -C "$here" rev-parse --short HEAD)
if ! git -C "$here/.." diff --quiet HEAD -- steer data_recipes attribute_models benchmarks/*.sh benchmarks/*.py benchmarks/claims; then
  echo "tables: the code differs from commit $commit. Commit it first, so that the tables can name it." >&2
  exit 1
fi
mkdir -p "$out"
[ -f "$out/commit" ] || echo "$commit" > "$out/commit"
if [ "$(cat "$out/commit")" != "$commit" ]; then
  echo "tables: $out was begun at commit $(cat "$out/commit"), this is $commit. Name another folder." >&2
  exit 1
fi
stage() {  # a table is replaced when it is whole
  echo "tables: $1, $(date +%H:%M)" >&2
  "${@:2}" > "$out/$1.md"
  cp "$out/$1.md" "$here/results/$1.md"
}
steer world --full --bases 3 --size 8000 --output "$out/world" >&2
for steps in 240 170; do  # of every run in methods, and in claims
  python -c "import json; from steer.world import LORA; print(json.dumps(LORA | {'max_steps': $steps}))" > "$out/$steps.json"
done
stage world python "$here/bars.py" "$out/world"
[ "$TUNE" = 0 ] || export RATES=
stage methods bash "$here/methods.sh" "$out/world" "$out/240.json" "$out/methods"
[ "$TUNE" = 0 ] || export RATES=$out/methods
stage claims bash "$here/claims.sh" "$out/world" "$out/170.json" "$out/claims"
python "$here/over_optimised.py" "$out/claims.md" > "$here/../examples/over_optimised.svg"
echo "tables: done, $(date +%H:%M)" >&2
