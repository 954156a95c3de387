"""Does label smoothing help where a quarter of the votes is flipped? `python benchmarks/flips.py WORLD OUT [SEEDS]`.

WORLD is the folder of `steer world`, OUT that of the runs. A pool of simulated annotators compares the pairs of the
logs twice (`steer annotate`), once flipping a quarter of its votes on training prompts and once none. Every policy
starts from one likelihood stage and takes the same number of steps: dpo on the flipped votes as they are, with flips=
(cDPO) and with robust= too (rDPO), and dpo on the votes that were not flipped. Smoothing changes how far a step goes,
so each of the four has the best of four learning rates, by the reward of WORLD's scorer on held-out prompts. Answers
are judged by the ground truth. A second call resumes where it stopped.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from steer.annotation.command import annotate_command
from steer.config.annotation import AnnotateConfig
from steer.config.evaluation import EvaluateConfig
from steer.config.labelling import LabelConfig
from steer.config.training import TrainConfig
from steer.errors import SteerError
from steer.evaluation.command import evaluate_command
from steer.labelling.command import label_command
from steer.report.circumstances import circumstances
from steer.run_folder import read_json
from steer.training.command import train_command

GOLD = "data_recipes.world_text:Gold"
POOL = "gold: {gold}\nannotators: 13\nnoise: 0.5\nflips: {flips}\ntraining: true\n"
STEPS, RATE = 240, 4e-3  # of the likelihood stage and of every method; rate of the likelihood stage
RATES = (RATE / 60, RATE / 20, RATE * 3 / 20, RATE * 9 / 20)  # tried for every arm
HOW: dict[str, Any] = {"max_steps": STEPS, "lora_r": 16, "lora_alpha": 32, "batch_size": 16}
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


def trained(world: Path, out: Path, arm: str, rate: int, seed: int) -> str:
    """Folder of the policy of an arm at one of RATES."""
    flips, settings = ARMS[arm]
    more: dict[str, Any] = {"set": settings, "init": str(out / "mle"), "learning_rate": RATES[rate], "seed": seed}
    place = str(out / f"dpo-{[*ARMS].index(arm)}-{rate}-{seed}")
    rows, model = str(out / f"labels-{flips:g}"), str(world / "base" / "model")
    train_command(TrainConfig(rows, model, place, method="dpo", **more, **HOW))
    return place


def judged(world: Path, place: Path, systems: Sequence[str]) -> str:
    """What `steer evaluate` says of systems, each as NAME=PATH; the report is in `place`."""
    how: dict[str, Any] = {"num_prompts": 200, "grid": 0, "max_new_tokens": 80, "pairs": "baseline", "resamples": 2000}
    return evaluate_command(EvaluateConfig(tuple(systems), str(place), str(world / "labels"), GOLD, **how))


def chosen(world: Path, out: Path, arm: str) -> int:
    """Number of the rate whose policy has the highest proxy reward."""
    names = [f"rate {rate:.3g}" for rate in RATES]
    place = out / f"tried-{[*ARMS].index(arm)}"
    judged(world, place, [f"{name}={trained(world, out, arm, i, 0)}" for i, name in enumerate(names)])
    proxy = {s["name"]: s["proxy"]["mean"] for s in read_json(place / "report.json")["systems"]}
    print(f"{arm}: proxy reward " + ", ".join(f"{proxy[name]:.2f} at {name}" for name in names))
    return max(range(len(RATES)), key=lambda i: proxy[names[i]])


def main(world: Path, out: Path, seeds: int) -> None:
    """Run what is missing, and print the table."""
    out.mkdir(parents=True, exist_ok=True)
    for flips in sorted({flips for flips, _ in ARMS.values()}):
        votes(world, out, flips)
    start = str(out / "mle")
    rows, model = str(world / "labels"), str(world / "base" / "model")
    train_command(TrainConfig(rows, model, start, method="mle", learning_rate=RATE, **HOW))
    best = {arm: chosen(world, out, arm) for arm in ARMS}
    systems = [
        f"{a.replace('=', ' ')}={trained(world, out, a, r, seed)}" for a, r in best.items() for seed in range(seeds)
    ]
    print(judged(world, out / f"report-{seeds}", [*systems, f"mle={start}"]))
    for flips in (0.25, 0.0):
        print(read_json(out / f"votes-{flips:g}" / "done.json")["summary"].splitlines()[-1])
    about = circumstances("evaluate")
    print(about["commit"], about["machine"], about["created"], sep=", ")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 5)
    except SteerError as error:
        raise SystemExit(str(error)) from None
