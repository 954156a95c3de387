#!/usr/bin/env bash
# Frontiers, not points: methods over the values of their knob, each at its own learning rate.
#   bash benchmarks/frontiers.sh WORLD [TRAIN [OUTPUT]]      (as for methods.sh)
# The knob of a method is what trades reward for distance from the start: the pull to the reference (beta, gamma), the
# temperature of weights (beta), the share that is kept (keep), the weight of the KL (kl), guidance, the number chosen from.
set -euo pipefail
export METHODS=${METHODS:-mle mle:best_of=2/4/8/16 mle:after=mle rwr:beta=2/1/0.5/0.25 awr:beta=2/1/0.5/0.25 filtered:keep=0.5/0.2/0.1/0.05
  conditional:guidance=1/1.5/2/3 prompted:guidance=1/2/3 steering:strength=0.5/1/2/4 c-rlft:bad=1/0.1/0
  dpo:after=mle,beta=1/0.3/0.1/0.03 ipo:after=mle,beta=1/0.3/0.1/0.03 kto:after=mle,beta=1/0.3/0.1/0.03
  bco:after=mle,beta=0.3/0.1/0.03 slic:after=mle,gamma=0.5/0.15/0.05 simpo:after=mle,beta=8/4/2
  rso:after=mle,rounds=1,n=16,prompts_per_round=500,beta=2/0.5/0.1
  ppo:after=mle,kl=0.2/0.02/0 rloo:k=2,after=mle,kl=0.5/0.05/0}
export RATES=${RATES-}  # what was tuned is tuned at one value of each knob
exec bash "$(dirname "$0")/methods.sh" "$1" "${2:-$1/train.json}" "${3:-frontiers}"
