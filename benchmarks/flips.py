"""Does label smoothing help where a quarter of the votes is flipped? `python benchmarks/flips.py WORLD OUT [SEEDS]`.

WORLD is the folder of `steer world`, OUT that of the runs. A pool of simulated annotators compares the pairs of the
logs twice (`steer annotate`), once flipping a quarter of its votes on training prompts and once none. Every policy
starts from one likelihood stage and takes the same number of steps: dpo on the flipped votes as they are, with flips=
(cDPO) and with robust= too (rDPO), and dpo on the votes that were not flipped. Answers to held-out prompts are judged
by the ground truth. A second call resumes where it stopped.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from steer.annotation.command import annotate_command
from steer.config.annotation import AnnotateConfig
from steer.config.evaluation import EvaluateConfig
from steer.config.labelling import LabelConfig
from steer.config.training import TrainConfig
from steer.evaluation.command import evaluate_command
from steer.labelling.command import label_command
from steer.report.circumstances import circumstances
from steer.run_folder import read_json
from steer.training.command import train_command

GOLD = "data_recipes.world_text:Gold"
POOL = "gold: {gold}\nannotators: 13\nnoise: 0.5\nflips: {flips}\ntraining: true\n"
FIRST, STEPS, RATE = 60, 120, 4e-3  # steps of the likelihood stage and of every method, rate of likelihood methods
ARMS: dict[str, tuple[float, tuple[str, ...]]] = {  # the first is what the others are compared with
    "dpo": (0.25, ()),
    "dpo:flips=0.25 (cDPO)": (0.25, ("flips=0.25",)),
    "dpo:flips=0.25,robust=true (rDPO)": (0.25, ("flips=0.25", "robust=true")),
    "dpo, no vote flipped": (0.0, ()),
}


def votes(world: Path, out: Path, flips: float) -> Path:
    """Labelled pairs that the pool compared, a share of its votes flipped."""
    pool, place = out / f"pool-{flips:g}.yaml", out / f"votes-{flips:g}"
    pool.write_text(POOL.format(gold=GOLD, flips=flips))
    annotate_command(AnnotateConfig(str(world / "logs"), str(place), f"simulated:{pool}"))
    label_command(LabelConfig(str(place), str(out / f"labels-{flips:g}")))
    return out / f"labels-{flips:g}"


def policies(world: Path, out: Path, seeds: int) -> list[str]:
    """NAME=PATH of every policy, the likelihood stage last."""
    how: dict[str, Any] = {"lora_r": 16, "lora_alpha": 32, "batch_size": 16, "learning_rate": RATE}
    model = str(world / "base" / "model")
    start = str(out / "mle")
    train_command(TrainConfig(str(world / "labels"), model, start, method="mle", max_steps=FIRST, **how))
    del how["learning_rate"]
    labels = {flips: votes(world, out, flips) for flips in sorted({flips for flips, _ in ARMS.values()})}
    systems = []
    for number, (name, (flips, settings)) in enumerate(ARMS.items()):
        for seed in range(seeds):
            place = str(out / f"dpo-{number}-{seed}")
            rate = RATE * 0.05
            more: dict[str, Any] = {"set": settings, "init": start, "seed": seed, "learning_rate": rate}
            train_command(TrainConfig(str(labels[flips]), model, place, method="dpo", max_steps=STEPS, **more, **how))
            systems.append(f"{name.replace('=', ' ')}={place}")
    return [*systems, f"mle={start}"]


def main(world: Path, out: Path, seeds: int) -> None:
    """Run what is missing, and print the table."""
    out.mkdir(parents=True, exist_ok=True)
    systems = tuple(policies(world, out, seeds))
    how: dict[str, Any] = {"num_prompts": 200, "grid": 0, "max_new_tokens": 80, "pairs": "baseline", "resamples": 2000}
    print(evaluate_command(EvaluateConfig(systems, str(out / f"report-{seeds}"), str(world / "labels"), GOLD, **how)))
    for flips in (0.25, 0.0):
        print(read_json(out / f"votes-{flips:g}" / "done.json")["summary"].splitlines()[-1])
    about = circumstances("evaluate")
    print(about["commit"], about["machine"], about["created"], sep=", ")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 3)
