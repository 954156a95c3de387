"""The main job against ground truth: a policy conditioned on labels obtains what is asked, one on shuffled labels not.

A small version of `make tables`, which turns all five dials: the attribute learned first, half the rows, one core.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_recipes.world_text import Gold
from steer.conditioning.targets import factorial
from steer.config.labelling import FitConfig, LabelConfig
from steer.config.rows import DataConfig
from steer.config.training import TrainConfig
from steer.evaluation.controllability import controllability
from steer.evaluation.statistics import interval
from steer.generation.engines import respond
from steer.generation.generate import held_out_prompts
from steer.generation.requests import Request
from steer.generation.settings import Sampling
from steer.labelling.command import fit_command, label_command
from steer.models.policy import Policy, load_policy
from steer.rows import Row, prompt_key, read_rows, write_rows
from steer.rows.command import data_command
from steer.training.command import train_command
from steer.world import BASE, LORA

NAMES = ("verbosity",)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pretraining text, base model, logs, scorer, labels."""
    out = tmp_path_factory.mktemp("world")
    data_command(DataConfig("world", str(out / "text"), size=4000, seed=100, primer=0.25))
    settings = {**BASE, "num_train_epochs": 2.0}
    train_command(TrainConfig(str(out / "text"), str(out / "text" / "model"), str(out / "base"), **settings))
    data_command(DataConfig("world", str(out / "logs"), size=4000))
    fit_command(FitConfig(str(out / "logs"), str(out / "scorer")))
    label_command(LabelConfig(str(out / "logs"), str(out / "labels"), scorer=str(out / "scorer")))
    return out


def policy(world: Path, labels: Path, name: str, epochs: float = 1.0) -> Policy:
    settings: dict[str, Any] = {**LORA, "num_train_epochs": epochs, "attribute": NAMES}
    train_command(TrainConfig(str(labels), str(world / "base"), str(world / name), **settings))
    return load_policy(str(world / name))


def answers(loaded: Policy, jobs: list[Request]) -> list[Row]:
    drawn = respond(loaded, jobs, Sampling(max_new_tokens=100, batch_size=128))
    return [{**job.row, "response": r.text} for job, r in zip(jobs, drawn)]


def turned(loaded: Policy, labels: Path, size: int = 400) -> dict[str, Any]:
    """The dial of a policy: gold scores on held-out prompts over the factorial grid."""
    assert loaded.card is not None
    assert loaded.card.schema is not None
    prompts = held_out_prompts(str(labels), 0.1, 0, 0)
    aims = factorial(loaded.card.schema, NAMES, size, 0)
    jobs = [Request(prompts[i % len(prompts)], aim) for i, aim in enumerate(aims)]
    at = [Gold.attributes.index(n) for n in NAMES]
    obtained = Gold().score(answers(loaded, jobs))[:, at]
    logs = Gold().score(read_rows(labels))[:, at]
    return controllability(
        [[aim[n] for n in NAMES] for aim in aims],
        obtained,
        [prompt_key(job.row) for job in jobs],
        attributes=NAMES,
        levels=[5],
        data_span=np.subtract(*np.percentile(logs, [95, 5], axis=0)),
        resamples=500,
    )["attributes"]


def test_targets_are_obtained_and_shuffled_labels_move_nothing(world: Path) -> None:
    labels = world / "labels"
    steered = policy(world, labels, "steered")
    for name, figures in turned(steered, labels).items():
        assert figures["spearman_means"]["mean"] >= 0.95, name
        assert figures["spearman"]["mean"] >= 0.7, name
        assert figures["span_ratio"]["mean"] >= 0.6, name

    rows = read_rows(labels)
    order = np.random.default_rng(0).permutation(len(rows))
    write_rows(({**row, "levels": rows[i]["levels"]} for row, i in zip(rows, order)), world / "shuffled" / "rows.jsonl")
    (world / "shuffled" / "schema.json").write_bytes((labels / "schema.json").read_bytes())
    # Half as long: what labels that say nothing teach is noise from the first step on.
    for name, figures in turned(policy(world, world / "shuffled", "control", 0.5), labels).items():
        assert abs(figures["slope"]["mean"]) < 0.15, name


def test_asking_for_more_gives_more_on_the_same_prompts(world: Path) -> None:
    steered = policy(world, world / "labels", "steered")
    prompts = held_out_prompts(str(world / "labels"), 0.1, 0, 150)
    at = Gold.attributes.index("verbosity")
    more, less = (
        Gold().score(answers(steered, [Request(p, {"verbosity": level}) for p in prompts]))[:, at] for level in (3, 1)
    )
    found = interval(np.subtract(more, less), [prompt_key(p) for p in prompts])
    assert found.low > 0.5
