"""What the shared layout saves, and what a step costs: `python benchmarks/layout.py [REPEATS]`.

Groups of K candidates behind prompts three times as long as they are, a model of 0.9 million parameters with LoRA. Both
layouts train on the same rows in turn; their losses must agree. "step" is the whole run of the loop divided by the sum
of its forward and backward passes: what all else costs is above 1. Then conversations of which every turn is a row, as
rows by themselves, several packed into one, and as `--turns all` trains on them. Prints Markdown.
"""

from __future__ import annotations

import os
import re
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator

from data_recipes import world_model
from data_recipes.world_text import words_of
from steer.config.training import TrainConfig
from steer.labelling.label import label
from steer.models.log_probs import ResponseLogps
from steer.rows import write_rows
from steer.run_folder import read_json
from steer.training.command import train_command

METHODS = ("dpo", "rrhf", "pro")
K, PROMPT, RESPONSE, PROMPTS, STEPS = 4, 120, 40, 64, 12
TURNS, ASKED, SAID, TALKS, TALKS_IN_STEP = (2, 4, 8), 10, 20, 32, 8


class Spent(NamedTuple):
    """Seconds of a run, those of its passes, and its last loss."""

    whole: float
    passes: float
    tokens: int
    loss: float


def rows(path: Path) -> None:
    """Random words of the world: K responses of different rewards to each prompt."""
    rng = np.random.default_rng(0)
    words = sorted({w for piece in world_model.pieces() for w in words_of(piece) if len(w) > 2})

    def text(length: int) -> str:
        return " ".join(rng.choice(words, length))

    made: list[dict[str, Any]] = []
    for i in range(PROMPTS):
        prompt = [{"role": "user", "content": text(PROMPT)}]
        for j in range(K):
            more = {"reward": float(rng.normal()), "levels": {}, "scores": {}, "split": "train"}
            length = int(rng.integers(RESPONSE // 2, RESPONSE * 3 // 2))
            made.append({"id": f"{i}:{j}", "prompt": prompt, "response": text(length), **more})
    write_rows(made, path)


def talks(folder: Path, turns: int) -> None:
    """Conversations of random words, every answer a row with scores: as turns of one, and as rows by themselves."""
    rng = np.random.default_rng(0)
    words = sorted({w for piece in world_model.pieces() for w in words_of(piece) if len(w) > 2})
    records: list[dict[str, Any]] = []
    for i in range(TALKS):
        messages: list[dict[str, Any]] = []
        for _ in range(turns):
            asked, said = (" ".join(rng.choice(words, n)) for n in (ASKED, SAID))
            messages.append({"role": "user", "content": asked})
            scores = {"helpful": int(rng.integers(5)), "verbose": int(rng.integers(5))}
            messages.append({"role": "assistant", "content": said, "scores": scores})
        records.append({"id": str(i), "messages": messages})
    labelled = label(records, turns="all", held_out=0.0, min_support=1)
    labelled.save(folder / "turns")
    apart = [{name: value for name, value in row.items() if name != "conversation"} for row in labelled.rows]
    replace(labelled, rows=apart).save(folder / "apart")


def every_turn(folder: Path, turns: int, repeats: int) -> str:
    """Train on the turns of conversations as rows by themselves and together; return a line of the table."""
    talks(folder, turns)
    seconds: dict[str, list[float]] = {"apart": [], "turns": []}
    for repeat in range(repeats + 1):  # the first pair warms up
        for name, every in seconds.items():
            out = folder / f"{name}-{repeat}"
            size = TALKS_IN_STEP * (turns if name == "apart" else 1)  # as many rows in a step
            how: dict[str, Any] = {"batch_size": size, "max_steps": TALKS // TALKS_IN_STEP, "learning_rate": 1e-4}
            train_command(
                TrainConfig(str(folder / name), str(folder / "model"), str(out), "conditional", template="tags", **how)
            )
            facts = read_json(out / "done.json")
            every += [facts["seconds"] / facts["steps"]] if repeat else []
            tokens = facts["tokens"] / facts["steps"]
    config = TrainConfig(str(folder / "turns"), str(folder / "model"), str(folder / "dry"), "conditional", dry_run=True)
    computed = re.search(r"tokens +([\d,]+) in one epoch, ([\d,]+) of them computed", train_command(config))
    assert computed
    share = int(computed[2].replace(",", "")) / int(computed[1].replace(",", ""))
    apart, together = (statistics.median(every) for every in seconds.values())
    return (
        f"| {turns} | {tokens:,.0f} | {tokens * share:,.0f} | {apart:.2f} | {together:.2f} | {apart / together:.2f} |"
    )


class Timed:
    """Adds up the seconds that calls of a function take."""

    def __init__(self, owner: type, name: str) -> None:
        self.seconds, inner = 0.0, getattr(owner, name)

        def outer(*args: Any, **more: Any) -> Any:
            if not torch.is_grad_enabled():  # references are computed before the first step
                return inner(*args, **more)
            began = time.perf_counter()
            try:
                return inner(*args, **more)
            finally:
                self.seconds += time.perf_counter() - began

        setattr(owner, name, outer)


def run(folder: Path, method: str, *, plain: bool, timers: list[Timed], name: str) -> Spent:
    """Train once."""
    before = sum(t.seconds for t in timers)
    how: dict[str, Any] = {"batch_size": 8, "max_steps": STEPS, "learning_rate": 1e-4}
    out = folder / name
    train_command(
        TrainConfig(str(folder / "rows.jsonl"), str(folder / "model"), str(out), method, plain_layout=plain, **how)
    )
    facts = read_json(out / "done.json")
    return Spent(facts["seconds"], sum(t.seconds for t in timers) - before, facts["tokens"], facts["loss"])


def main(repeats: int) -> None:
    """Print one line per method."""
    timers = [Timed(ResponseLogps, "forward"), Timed(Accelerator, "backward")]
    print(f"K = {K}, prompts of {PROMPT} and responses of {RESPONSE} words, {STEPS} steps, medians of {repeats}.\n")
    print("| method | plain, tokens/s | shared, tokens/s | ratio | step, shared | losses |\n" + "| --- " * 6 + "|")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        world_model.save(folder / "model")
        rows(folder / "rows.jsonl")
        for method in METHODS:
            found: dict[bool, list[Spent]] = {True: [], False: []}
            for repeat in range(repeats + 1):  # the first pair warms up
                for plain in (True, False):
                    spent = run(folder, method, plain=plain, timers=timers, name=f"{method}-{plain}-{repeat}")
                    found[plain] += [spent] if repeat else []
            ratio = statistics.median(a.whole / b.whole for a, b in zip(found[True], found[False]))
            speeds = [statistics.median(s.tokens / s.whole for s in found[plain]) for plain in (True, False)]
            step = statistics.median(s.whole / s.passes for s in found[False])
            losses = f"{found[True][0].loss:.5f}, {found[False][0].loss:.5f}"
            print(f"| {method} | {speeds[0]:,.0f} | {speeds[1]:,.0f} | {ratio:.2f} | {step:.3f} | {losses} |")
        print(f"\nQuestions of {ASKED}, answers of {SAID} words, conditional, {TALKS_IN_STEP} conversations a step.\n")
        print("| answers | tokens a step | computed | seconds, apart | together | ratio |\n" + "| --- " * 6 + "|")
        for turns in TURNS:
            (folder / str(turns)).mkdir()
            (folder / str(turns) / "model").symlink_to(folder / "model")
            print(every_turn(folder / str(turns), turns, repeats))


if __name__ == "__main__":
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
