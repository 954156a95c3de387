"""The guidance curve of a policy: `python benchmarks/guidance.py POLICY ROWS`.

What is obtained, how fluent and how varied, against S. POLICY is a conditioned policy, ROWS labelled rows with held-out
prompts (of `make world`: `compare/runs/conditional-seed0/policy` and `labels`). Targets are a factorial draw from the
supported combinations. Per S: the slope of the obtained level on the target, averaged over attributes (1 is perfect);
the mean distance in levels; log-probability per token under the unconditioned base, for fluency; distinct-2 and the
share of repeated trigrams, for diversity. Intervals are 95 %, over prompts.
Options: --responses 400 --scorer data_recipes.world_text:Gold --against none|opposite --seed 0.
"""

from __future__ import annotations

import argparse
import platform
import time

import torch

from steer.evaluation.guidance import Trial
from steer.generation.generate import held_out_prompts
from steer.labelling.scorer import load_scorer
from steer.models.policy import load_policy
from steer.report.guided import guided, table
from steer.report.page import markdown_table


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("policy")
    parser.add_argument("rows")
    parser.add_argument("--responses", type=int, default=400)
    parser.add_argument("--scorer", default="data_recipes.world_text:Gold")
    parser.add_argument("--against", default="none")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    began = time.perf_counter()
    policy, scorer = load_policy(args.policy), load_scorer(args.scorer)
    if policy.card is None:
        raise SystemExit(f"{args.policy} is not conditioned.")
    rows = held_out_prompts(args.rows, 0.1, 0, 0)
    curve = Trial(
        policy, load_policy(policy.card.base), scorer, rows, args.responses, args.against, seed=args.seed
    ).curve()
    print(f"{guided(curve)[0]}\n\n{markdown_table(table(curve))}\n")
    took = time.perf_counter() - began
    print(f"seed {args.seed}, {took:.0f} s, {platform.machine()}, torch {torch.__version__}")


if __name__ == "__main__":
    main()
