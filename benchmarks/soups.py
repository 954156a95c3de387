"""What rewarded soups reach between their ingredients: `python benchmarks/soups.py WORLD OUT`.

WORLD is the folder of `steer world --bases N`, OUT that of the runs. On each base, behind one likelihood stage, dpo
trains one policy for helpfulness alone and one for warmth alone (`steer label --neither` takes the other attributes out
of the reward), and one for both. `steer soup` averages the first two in five shares. All answer the held-out prompts,
and ground truth scores both attributes, from 0 to 4. A second call resumes where it stopped.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout, whatever is installed

from benchmarks import bars
from steer.config.evaluation import EvaluateConfig
from steer.config.labelling import LabelConfig
from steer.config.training import TrainConfig
from steer.errors import SteerError
from steer.evaluation.command import evaluate_command
from steer.export.soup import soup
from steer.labelling.command import label_command
from steer.report.circumstances import circumstances
from steer.run_folder import read_json
from steer.training.command import train_command

GOLD = "data_recipes.world_text:Gold"
FIRST, STEPS, RATE = 60, 240, 4e-3  # steps of the likelihood stage and of dpo, rate of likelihood methods
WANTED = ("helpfulness", "warmth")
OTHERS = ("correctness", "verbosity", "hedging")
REWARDS = {"helpfulness": ("warmth", *OTHERS), "warmth": ("helpfulness", *OTHERS), "both": OTHERS}  # what is left out
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the policy for warmth


def systems(world: Path, out: Path) -> list[str]:
    """NAME=PATH of every policy on every base, the likelihood stages first."""
    how: dict[str, Any] = {"lora_r": 16, "lora_alpha": 32, "batch_size": 16}
    for reward, neither in REWARDS.items():
        label: dict[str, Any] = {"scorer": str(world / "scorer"), "neither": neither}
        label_command(LabelConfig(str(world / "logs"), str(out / f"labels-{reward}"), **label))
    found: dict[str, list[Path]] = {}
    for base in sorted(path for path in world.glob("base*") if path.is_dir()):
        model, place = str(base / "model"), out / base.name
        first: dict[str, Any] = {"method": "mle", "max_steps": FIRST, "learning_rate": RATE}
        train_command(TrainConfig(str(world / "labels"), model, str(place / "mle"), **first, **how))
        found.setdefault("mle", []).append(place / "mle")
        more: dict[str, Any] = {"method": "dpo", "max_steps": STEPS, "learning_rate": RATE * 0.05}
        for reward in REWARDS:
            rows, policy = str(out / f"labels-{reward}"), place / reward
            train_command(TrainConfig(rows, model, str(policy), init=str(place / "mle"), **more, **how))
        found.setdefault("dpo for both", []).append(place / "both")
        for share in SHARES:
            made = place / f"soup-{share:g}"
            soup([place / name for name in WANTED], made, shares=(1 - share, share))
            found.setdefault(f"soup, {share:g} for warmth", []).append(made)
    return [f"{name}={path}" for name, paths in found.items() for path in paths]


def table(report: dict[str, Any]) -> str:
    """Both attributes of every system, beside the straight line between the ingredients, in Markdown."""
    systems = {s["name"]: s for s in report["systems"]}
    ends = [systems[f"soup, {share:g} for warmth"]["attributes"] for share in (SHARES[0], SHARES[-1])]
    rows = []
    for name, system in systems.items():
        rows.append([name])
        for attribute in WANTED:
            line = "-"
            if name.startswith("soup"):
                share, (one, other) = float(name.split()[1]), (end[attribute]["mean"] for end in ends)
                line = f"{(1 - share) * one + share * other:.2f}"
            rows[-1] += [bars.text(system["attributes"][attribute]), line]
        rows[-1].append(f"{system['kl']['mean']:.2f}" if system["kl"] else "-")
    return bars.table(["system", *(cell for name in WANTED for cell in (name, "on the line")), "KL, nats"], rows)


def main(world: Path, out: Path) -> None:
    """Run what is missing, and print the table."""
    out.mkdir(parents=True, exist_ok=True)
    how: dict[str, Any] = {"num_prompts": 200, "grid": 0, "max_new_tokens": 80, "resamples": 2000}
    evaluate_command(
        EvaluateConfig(tuple(systems(world, out)), str(out / "report"), str(world / "labels"), GOLD, **how)
    )
    report = read_json(out / "report" / "report.json")
    about = circumstances("evaluate")
    print(
        f"{about['created']}, commit {about['commit']}, {about['machine']}; {report['seeds']} bases.\n\n{table(report)}"
    )


if __name__ == "__main__":
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    except SteerError as error:
        raise SystemExit(str(error)) from None
