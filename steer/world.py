"""The whole pipeline on the embedded world: `world` runs each stage as its own command would."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from steer import device, report
from steer.comparison.command import compare_command
from steer.config.comparison import CompareConfig
from steer.config.demo import WorldConfig
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
from steer.report import dials
from steer.report.circumstances import circumstances
from steer.rows.command import data_command
from steer.run_folder import in_a_folder, read_json, write_json
from steer.settings import SHARE
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


def world(config: WorldConfig) -> str:
    """Run every stage that is not done yet; return what it shows, the report's path and the time it took."""
    began = time.monotonic()
    in_a_folder(config.output)
    out = Path(config.output)
    logs, scorer, labels = (str(out / name) for name in ("logs", "scorer", "labels"))
    # Base models: small ones, trained from scratch. The first is called "base".
    models = [_base(out, number) for number in range(config.bases)]
    # Logged responses with human scores; a scorer fitted on these; the rows with its scores and levels.
    click.echo(data_command(DataConfig("world", logs, size=config.size)))
    click.echo(fit_command(FitConfig(logs, scorer)))
    click.echo(label_command(LabelConfig(logs, labels, scorer=scorer)))
    # Every method trained on the same rows and judged by ground truth, which training never sees.
    table = compare_command(_comparison(config, labels, models))
    # The conditional policy improves itself: it answers prompts, and learns from what it obtained.
    policy = out / "compare" / "runs" / "conditional-seed0" / "policy"
    rounds = iterate_command(
        IterateConfig(
            rows=labels,
            model=models[0],
            policy=str(policy),
            scorer=scorer,
            output=str(out / "iterate"),
            gold=GOLD,
            prompts_per_round=400,
            **SAMPLING,  # type: ignore[arg-type]  # a dict of ints
        )
    )
    # Classifier-free guidance at several strengths, all of it in one report, and a look at some responses.
    page = _report(out, _guidance(policy, labels, models[0], out / "guidance.json"))
    parts = [
        "One prompt at opposite targets:\n" + _opposites(policy),
        "Rounds of iterate:\n" + rounds,
        "Obtained for each target, gold scores on held-out prompts:\n" + _dial(out),
        table,
    ]
    minutes = (time.monotonic() - began) / 60
    return "\n\n".join([*parts, f"world: all stages done in {minutes:.1f} minutes. Report: {page}"])


def _base(out: Path, number: int) -> str:
    """Train a base model on text, first weights and an order of its own; return its folder."""
    suffix = f"-{number}" if number else ""
    text, model = str(out / f"pretraining{suffix}"), str(out / f"base{suffix}")
    click.echo(f"pretraining {data_command(DataConfig('world', text, **(PRETRAINING | {'seed': TEXT + number})))}")
    click.echo(f"base {train_command(TrainConfig(text, f'{text}/model', model, seed=number, **BASE))}")
    return model


def _comparison(config: WorldConfig, labels: str, models: Sequence[str]) -> CompareConfig:
    """Settings of the comparison; writes the file with those of training."""
    out = Path(config.output)
    write_json(out / "train.json", LORA | ({"num_train_epochs": 3.0} if config.full else {}))
    return CompareConfig(
        rows=labels,
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
        num_proc=min(8, os.cpu_count() or 1) if device.kind() == "cpu" else 1,
        train=str(out / "train.json"),
        resamples=2000 if config.full else 1000,
        **SAMPLING,  # type: ignore[arg-type]  # a dict of ints
    )


def _guidance(policy: Path, labels: str, base: str, path: Path) -> dict[str, Any]:
    """Measure guidance of each strength on the conditional policy, once: the curve is kept in a file."""
    if not path.is_file():
        rows = held_out_prompts(labels, SHARE, 0, GUIDED)
        trial = Trial(
            load_policy(str(policy)),
            load_policy(base),
            load_scorer(GOLD),
            rows,
            responses=GUIDED,
            **SAMPLING,  # type: ignore[arg-type]  # a dict of ints
        )
        write_json(path, trial.curve(GUIDES))
    return dict(read_json(path))


def _report(out: Path, guidance: dict[str, Any]) -> Path:
    """Write the comparison's report with the rounds of iterate and the guidance curve added."""
    result = read_json(out / "compare" / "report.json")
    result |= {"iterate": read_json(out / "iterate" / "report.json")["iterate"], "guidance": guidance}
    result |= {"command": circumstances("world")["command"], "commands": ["make world", "steer world"]}
    return report.write(result, out)


def _dial(out: Path) -> str:
    """Table of targets beside what was obtained, a line for each attribute."""
    reports = read_json(out / "compare" / "report.json")["dials"]
    return dials.text(next(d["result"] for d in reports if d["name"] == "conditional"))


def _opposites(policy: Path) -> str:
    """Answer one prompt at targets that differ: good and bad, short and long."""
    targets = ("best", "helpfulness=0 correctness=0", "verbosity=0 warmth=4", "verbosity=4 warmth=0", "hedging=4")
    prompt = ("tell me about homes for my big garden.",)
    return generate_command(GenerateConfig(str(policy), prompt=prompt, target=targets, max_new_tokens=120))
