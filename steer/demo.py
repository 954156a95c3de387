"""The whole pipeline on the embedded world, stage by stage, each as its own command would run it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import torch

from steer import report
from steer.comparison.command import compare_command
from steer.config.comparison import CompareConfig
from steer.config.demo import DemoConfig
from steer.config.generation import GenerateConfig
from steer.config.iteration import IterateConfig
from steer.config.labelling import FitConfig, LabelConfig
from steer.config.rows import DataConfig
from steer.config.training import TrainConfig
from steer.evaluation.guidance import Trial
from steer.generation.command import generate_command
from steer.generation.generate import held_out_prompts
from steer.iteration.command import iterate_command
from steer.labelling.command import fit_command, label_command
from steer.labelling.scorer import load_scorer
from steer.models.policy import load_policy
from steer.report.circumstances import circumstances
from steer.rows.command import data_command
from steer.run_folder import read_json, write_json
from steer.training.command import train_command

GOLD = "data_recipes.world_text:Gold"
# Other text than the logs, so that the base has not seen the answers to the held-out prompts.
PRETRAINING: dict[str, Any] = {"size": 8000, "primer": 0.25}
TEXT = 100  # seed of the first base's text
BASE: dict[str, Any] = {
    "method": "mle",
    "adapter": "none",
    "learning_rate": 3e-3,
    "weight_decay": 0.01,
    "num_train_epochs": 3.0,
}
# What LoRA needs on a model of under a million parameters; on a real one keep the defaults.
LORA: dict[str, Any] = {
    "lora_r": 16,
    "lora_alpha": 32,
    "learning_rate": 4e-3,
    "batch_size": 16,
    "num_train_epochs": 1.0,
    "max_new_tokens": 120,
}
METHODS = ("mle", "filtered", "rwr:beta=1", "rwr:beta=0.5", "conditional")
FULL_METHODS = ("mle", "rwr:beta=0.5", "conditional")
TARGETS = ("best", "verbosity=0", "warmth=0 helpfulness=1")
SAMPLING = {"max_new_tokens": 120, "batch_size": 128}
GUIDED, GUIDES = 200, (0.0, 1.0, 2.0, 3.0, 4.0, 6.0)  # responses at each strength of guidance


def demo(config: DemoConfig) -> str:
    """Run every stage that is not done yet; what was shown, the report's path and the time it took."""
    began = time.monotonic()
    out = Path(config.output)
    models = [str(out / ("base" if number == 0 else f"base-{number}")) for number in range(config.bases)]
    for line in _prepare(config, out, models):
        click.echo(line)
    train_file = out / "train.json"
    write_json(train_file, LORA | ({"num_train_epochs": 3.0} if config.full else {}))
    settings = CompareConfig(
        rows=str(out / "labels"),
        model=models[0],
        base=tuple(models[1:]),
        output=str(out / "compare"),
        method=FULL_METHODS if config.full else METHODS,
        target=TARGETS,
        gold=GOLD,
        seeds=config.seeds,
        num_prompts=500 if config.full else 250,
        grid=2000 if config.full else 1000,
        controls=config.full,
        num_proc=1 if torch.cuda.is_available() else min(8, os.cpu_count() or 1),
        train=str(train_file),
        resamples=2000 if config.full else 1000,
        **SAMPLING,  # type: ignore[arg-type]  # a dict of ints
    )
    table = compare_command(settings)
    policy = out / "compare" / "runs" / "conditional-seed0" / "policy"
    rounds = iterate_command(
        IterateConfig(
            rows=str(out / "labels"),
            model=str(out / "base"),
            policy=str(policy),
            scorer=str(out / "scorer"),
            output=str(out / "iterate"),
            gold=GOLD,
            prompts_per_round=400,
            **SAMPLING,  # type: ignore[arg-type]  # a dict of ints
        )
    )
    page = _with_rounds(out, _guidance(out, policy))
    side_by_side = _opposites(policy)
    minutes = (time.monotonic() - began) / 60
    parts = [
        "One prompt at opposite targets:\n" + side_by_side,
        "Rounds of iterate:\n" + rounds,
        "Obtained for each target, gold scores on held-out prompts:\n" + _dial(out),
        table,
    ]
    return "\n\n".join([*parts, f"demo: all stages done in {minutes:.1f} minutes. Report: {page}"])


def _prepare(config: DemoConfig, out: Path, models: Sequence[str]) -> Iterator[str]:
    """Base models, logs, scorer and labels; each base has text, first weights and an order of its own."""
    for number, model in enumerate(models):
        folder = out / ("pretraining" if number == 0 else f"pretraining-{number}")
        yield f"pretraining {data_command(DataConfig('world', str(folder), **(PRETRAINING | {'seed': TEXT + number})))}"
        settings = TrainConfig(str(folder), str(folder / "model"), model, seed=number, **BASE)
        yield f"base {train_command(settings)}"
    yield data_command(DataConfig("world", str(out / "logs"), size=config.size))
    yield fit_command(FitConfig(str(out / "logs"), str(out / "scorer")))
    yield label_command(LabelConfig(str(out / "logs"), str(out / "labels"), scorer=str(out / "scorer")))


def _guidance(out: Path, policy: Path) -> dict[str, Any]:
    """What guidance of each strength does to the conditional policy; kept in a file, so that it is measured once."""
    path = out / "guidance.json"
    if not path.is_file():
        rows = held_out_prompts(str(out / "labels"), 0.1, 0, GUIDED)
        trial = Trial(
            load_policy(str(policy)),
            load_policy(str(out / "base")),
            load_scorer(GOLD),
            rows,
            responses=GUIDED,
            **SAMPLING,  # type: ignore[arg-type]  # a dict of ints
        )
        write_json(path, trial.curve(GUIDES))
    return dict(read_json(path))


def _with_rounds(out: Path, guidance: dict[str, Any]) -> Path:
    """The comparison's report with the rounds of iterate and the guidance curve added."""
    result = read_json(out / "compare" / "report.json")
    loop = read_json(out / "iterate" / "report.json")["iterate"]
    result |= {"iterate": loop, "guidance": guidance}
    result |= {"command": circumstances("demo")["command"], "commands": ["make demo", "steer demo"]}
    return report.write(result, out)


def _dial(out: Path) -> str:
    """Target beside obtained, a line an attribute."""
    found = next(d["result"] for d in read_json(out / "compare" / "report.json")["dials"] if d["name"] == "conditional")
    lines = [
        "attribute      " + "".join(f"{f'asked {i}':>20}" for i in range(5)) + "   Spearman, means / single   span"
    ]
    for name, f in found["attributes"].items():
        cells = [f"{m['mean']:.2f} [{m['low']:.2f}, {m['high']:.2f}]" for m in f["means"]]
        figures = [f[key]["mean"] for key in ("spearman_means", "spearman", "span_ratio")]
        lines.append(
            f"{name:<15}" + "".join(f"{c:>20}" for c in cells) + "{:>16.2f} / {:.2f} {:>12.2f}".format(*figures)
        )
    return "\n".join(lines)


def _opposites(policy: Path) -> str:
    """One prompt, asked for good and bad, short and long."""
    targets = ("best", "helpfulness=0 correctness=0", "verbosity=0 warmth=4", "verbosity=4 warmth=0", "hedging=4")
    return generate_command(
        GenerateConfig(
            str(policy),
            prompt=("tell me about homes for my big garden.",),
            target=targets,
            max_new_tokens=120,
        )
    )
