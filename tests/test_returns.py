"""The Decision Transformer for text: every row's own standardised return, and any number within the data as target."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jinja2 import TemplateError

from steer.conditioning.chat import PLAIN, steerable
from steer.conditioning.condition import render
from steer.conditioning.targets import opposite, parse_target
from steer.config.training import TrainConfig
from steer.errors import SteerError
from steer.generation.engines import respond
from steer.generation.requests import Request, condition_text
from steer.generation.settings import Sampling
from steer.models.policy import Policy, load_policy
from steer.rows import read_rows
from steer.rows.binning import exact
from steer.rows.labelled import Labelled
from steer.rows.schema import Schema
from steer.training.command import train_command
from steer.training.prepare import chosen, conditioned

OWN = "decision-transformer"


@pytest.fixture(scope="module")
def told(labels: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Policy:
    folder = tmp_path_factory.mktemp("returns") / "policy"
    train_command(
        TrainConfig(str(labels), str(base), str(folder), template=OWN, learning_rate=1e-3, max_steps=2, lora_r=4)
    )
    return load_policy(str(folder))


def rows_of(labels: Path) -> list[dict[str, Any]]:
    return [row for row in read_rows(labels) if row["split"] == "train"]


def schema_in(policy: Policy) -> Schema:
    assert policy.card
    assert policy.card.schema
    return policy.card.schema


@pytest.mark.parametrize("name", ["reward", "helpfulness"])
def test_every_row_reads_its_own_score_with_two_decimals(labels: Path, name: str) -> None:
    rows = rows_of(labels)
    made, schema = exact(rows, Labelled.without_rows(str(labels)).schema, (name,))
    for before, after in zip(rows, made):
        score = before["reward"] if name == "reward" else before["predicted"][name]
        assert render(after["levels"], schema, (name,), OWN) == f"<{name}>{score:z.2f}\n"
    if name == "reward":
        read = {render(row["levels"], schema, (name,), OWN) for row in made}
        assert len(read) == len({round(row["reward"], 2) for row in rows}) > 20


def test_bins_are_an_option_of_their_own(labels: Path) -> None:
    schema = Labelled.without_rows(str(labels)).schema
    rows = rows_of(labels)
    centres = {f"<reward>{c:z.2f}\n" for c in schema["reward"].centres}
    assert {render(row["levels"], schema, ("reward",), "reward-bins") for row in rows} == centres
    config = TrainConfig(str(labels), "base", "out", template="reward-bins")
    made = conditioned(Labelled.of(config.rows), chosen("conditional", ())[0], config)
    assert made
    assert made.names == ("reward",)


def test_a_level_that_somebody_changed_is_printed_and_not_the_score(labels: Path) -> None:
    """The control with permuted labels must not see the score behind the level."""
    rows = [{**row, "levels": {**row["levels"], "reward": 0}} for row in rows_of(labels)]
    made, schema = exact(rows, Labelled.without_rows(str(labels)).schema, ("reward",))
    for row in made:
        changed = schema["reward"].level(row["reward"]) != 0
        shown = schema["reward"].centres[0] if changed else row["reward"]
        assert render(row["levels"], schema, ("reward",), OWN) == f"<reward>{shown:z.2f}\n"


def test_any_number_within_the_data_is_a_target(labels: Path, told: Policy) -> None:
    rewards = [row["reward"] for row in rows_of(labels)]
    low, high = min(rewards), max(rewards)
    for value in (low, low / 2, 0.0, 0.37, high / 3, high):
        [aim] = told.targets([f"reward={value:.2f}"])
        assert condition_text(told, aim) == f"<reward>{value:z.2f}\n"
    for value, end in ((high + 1, high), (low - 0.5, low)):
        with pytest.raises(SteerError, match=re.escape(f"goes from {low:.2f} to {high:.2f} in the data. Nearest")):
            told.targets([f"reward={value:.2f}"])
        [aim] = told.targets([f"reward={value:.2f}"], allow_unsupported=True)
        assert condition_text(told, aim) == f"<reward>{value:z.2f}\n"
        near = schema_in(told).nearest(aim)
        assert near
        assert condition_text(told, near) == f"<reward>{end:z.2f}\n"
    with pytest.raises(
        SteerError, match=r"target reward=much: no such level; reward goes from -?\d.* to .*\. Also: low"
    ):
        told.targets(["reward=much"])


def test_best_is_a_high_quantile_and_words_are_quantiles(labels: Path, told: Policy) -> None:
    rewards = [row["reward"] for row in rows_of(labels)]
    for text, share in (("best", 0.95), ("reward=high", 0.95), ("reward=low", 0.05), ("reward=medium", 0.5)):
        [aim] = told.targets([text])
        assert condition_text(told, aim) == f"<reward>{np.quantile(rewards, share):z.2f}\n"
    schema = schema_in(told)
    top = f"{np.quantile(rewards, 0.95):z.2f}"
    assert schema.text(schema.best(("reward",))) == f"reward={top}"
    within = parse_target("reward=-0.50..0.25", schema, ("reward",))  # the nearest to the best
    assert condition_text(told, within) == "<reward>0.25\n"
    assert condition_text(told, parse_target("reward>=0.25", schema, ("reward",))) == f"<reward>{top}\n"
    assert condition_text(told, parse_target("reward<=0.25", schema, ("reward",))) == "<reward>0.25\n"
    assert opposite(schema.best(("reward",)), schema)


def test_the_dial_goes_over_quantiles_of_the_data(told: Policy) -> None:
    """Whole levels are the means of equal parts of the data, shown as what is printed."""
    schema = schema_in(told)
    a = schema["reward"]
    for level, centre in enumerate(a.centres):
        assert condition_text(told, {"reward": level}) == f"<reward>{centre:z.2f}\n"
        assert schema.text({"reward": level}) == f"reward={centre:z.2f}"
    assert max(a.counts) < 1.5 * min(a.counts)


def test_a_schema_keeps_its_range_on_disk(told: Policy) -> None:
    schema = schema_in(told)
    assert Schema.from_json(schema.to_json()) == schema
    assert len(schema["reward"].quantiles) == 21
    plain = replace(schema["reward"], quantiles=())
    assert Schema.from_json(replace(schema, attributes=(plain,), cells={}).to_json())["reward"] == plain


def test_a_policy_answers_at_a_number(told: Policy) -> None:
    row = {"id": "a", "prompt": [{"role": "user", "content": "tell me about bees."}], "response": ""}
    aims = told.targets(["reward=0.37", "best", "none"])
    drawn = respond(told, [Request(row, aim) for aim in aims], Sampling(max_new_tokens=8, batch_size=4))
    assert len(drawn) == 3


def test_an_export_takes_any_number_of_the_data_too(told: Policy) -> None:
    schema = schema_in(told)
    template, ask = steerable(PLAIN, schema, ("reward",), OWN), [{"role": "user", "content": "hi"}]

    def printed(attributes: Any) -> str:
        tokenizer = told.tokenizer
        text: str = tokenizer.apply_chat_template(
            ask, chat_template=template, tokenize=False, add_generation_prompt=True, attributes=attributes
        )
        return text.splitlines()[-1]

    low, high = schema["reward"].range
    assert printed({"reward": 0.37}) == printed("reward=0.37") == printed({"reward": "0.371"}) == "<reward>0.37"
    assert printed({"reward": -0.001}) == "<reward>0.00"
    assert printed({"reward": high}) == f"<reward>{high:.2f}"
    best = condition_text(told, schema.best(("reward",))).strip()
    assert printed(None) == printed("best") == printed({"reward": "high"}) == best
    for bad in (high + 1, low - 1, "much", "nan", "inf"):
        with pytest.raises(TemplateError, match=r"no such level; reward goes from .* in the data\. Also: low"):
            printed({"reward": bad})


def test_tokens_for_any_number_are_refused(labels: Path, base: Path, tmp_path: Path) -> None:
    how: dict[str, Any] = {"template": OWN, "condition_tokens": "special", "max_steps": 1}
    with pytest.raises(SteerError, match=r"prints any number\. Use --condition-tokens text, or --template reward-bins"):
        train_command(TrainConfig(str(labels), str(base), str(tmp_path / "run"), **how))
    how["template"] = "reward-bins"
    train_command(TrainConfig(str(labels), str(base), str(tmp_path / "run"), lora_r=4, **how))
