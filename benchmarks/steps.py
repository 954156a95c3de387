"""Time of an optimizer step of every method against that of its forward and backward passes.

    python benchmarks/steps.py LABELS [--model FOLDER] [--repeats 20] [--batch 16] [--method NAME ...]

LABELS: labelled rows, of `steer world` for example. --model: a base (default: a random model of the embedded world, of
the size that its base has). A step is everything that happens from choosing the rows to the updated weights. Forward
and backward are those passes alone, over the same batches, with the pass of the reference where the loss needs one at
every token, and that of mismatched pairs where it compares with their gain (kto). Methods that draw at every step are
timed without the draws, which are what they train on. Both are timed in turn, the one first that was second before (but
for those that draw); the ratio is the median over pairs, with their range. What is computed once before the first step
is not timed. The bar is 1.1. Prints Markdown. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch

from data_recipes import world_model
from steer.errors import SteerError
from steer.labelling.scorer import load_scorer
from steer.methods import METHODS
from steer.models.log_probs import seen
from steer.progress import quiet
from steer.rows.labelled import Labelled
from steer.training.baselines import Baseline
from steer.training.prepare import Hashes
from steer.training.references import base_states, known_of
from steer.training.settings import TrainSettings
from steer.training.train import prepare

BAR = 1.1
WARM = 2  # steps before the first that is timed


class Kept:
    """A plan that keeps the batches of the last step, and the seconds that it took to make them."""

    def __init__(self, plan: Any) -> None:
        self.plan, self.seconds = plan, 0.0
        self.last: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        """Everything else is the plan's."""
        return getattr(self.plan, name)

    def batches(self, *args: Any) -> Any:
        """Batches of a step, made at once."""
        began = time.perf_counter()
        self.last = list(self.plan.batches(*args))
        self.seconds = time.perf_counter() - began
        return iter(self.last)


def passes(loop: Any, module: Any, plan: Kept, baseline: Baseline, step: int) -> float:
    """Seconds of forward and backward over the batches of the last step."""
    began = time.perf_counter()
    baseline.at(module, step, loop.accelerator)
    for indices, batch in plan.last:
        base = base_states(module, plan.plan, indices, batch, loop.accelerator) if "kl" in loop.method.needs else None
        logps, _ = seen(module, batch, base)
        logps.sum().backward()
    seconds = time.perf_counter() - began
    module.zero_grad(set_to_none=True)
    return seconds


def timed(labelled: Labelled, model: str, name: str, options: TrainSettings, repeats: int) -> list[tuple[float, float]]:
    """Seconds of a step, and of its passes, `repeats` times."""
    scorer = load_scorer(labelled.spec) if METHODS[name].on_policy else None
    training = prepare(labelled, model, name, options, Hashes.of(model, ""), scorer)
    plan = Kept(training.loop.plan)
    loop: Any = replace(training.loop, plan=cast(Any, plan))
    plain = loop.module(training.policy)
    module, optimizer = loop._spread(plain)
    known = known_of(plain, plan.plan, loop.steps, loop.method, loop.settings, loop.accelerator, "")
    baseline = Baseline.of(loop.method, plan.plan, loop.steps, plain, loop.accelerator, "")
    plan.start(plain)
    module.train()
    found = []
    for step in range(WARM + repeats):

        def whole(step: int = step) -> float:
            began = time.perf_counter()
            loop._step(module, optimizer, step, known, baseline)
            return time.perf_counter() - began - (plan.seconds if loop.method.on_policy else 0.0)

        if step % 2 and not loop.method.on_policy:  # the passes first, over the batches that the step makes again
            plan.last = list(plan.plan.batches(step, 0, 1, known))
            both = passes(loop, module, plan, baseline, step)
            found.append((whole(), both))
        else:
            took = whole()
            found.append((took, passes(loop, module, plan, baseline, step)))
    return found[WARM:]


def main() -> None:
    """Time every method and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("labels")
    parser.add_argument("--model", default="")
    parser.add_argument("--method", action="append", default=[])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--batch", type=int, default=16)
    args = parser.parse_args()
    labelled = Labelled.read(args.labels)
    with TemporaryDirectory() as folder, quiet():
        if not args.model:
            world_model.save(Path(folder))
        lines, ratios, skipped = [], {}, []
        for name in args.method or METHODS:
            options = TrainSettings(max_steps=WARM + args.repeats, batch_size=args.batch, max_new_tokens=60)
            try:
                pairs = timed(labelled, args.model or folder, name, options, args.repeats)
            except SteerError as error:
                skipped.append(f"{name}: {error}")
                continue
            each = sorted(whole / both for whole, both in pairs)
            ratios[name] = statistics.median(each)
            middle = [1000 * statistics.median(column) for column in zip(*pairs)]
            cells = [name, *(f"{ms:.1f}" for ms in middle), f"{ratios[name]:.2f} [{each[0]:.2f}, {each[-1]:.2f}]"]
            lines.append(f"| {' | '.join([*cells, 'yes' if ratios[name] <= BAR else '**no**'])} |")
    print(
        f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}; {args.repeats} pairs.\n"
    )
    print(f"| method | step, ms | forward and backward, ms | ratio | at most {BAR} |\n|{' --- |' * 5}")
    print("\n".join(lines))
    within = sum(ratio <= BAR for ratio in ratios.values())
    print(f"\n{within} of {len(ratios)} methods are within {BAR}.")
    print("".join(f"\nNot timed: {line}" for line in skipped))


if __name__ == "__main__":
    main()
