"""How long a training is where nobody says: enough steps on few rows, two passes over many."""

from __future__ import annotations

from pathlib import Path

import pytest

from steer.methods import likelihood_rate
from steer.training.amount import MOST, STEPS, amount
from steer.training.settings import TrainSettings
from steer.training.train import train


@pytest.mark.parametrize(
    ("groups", "batch", "epochs"),
    [(10, 8, MOST), (125, 8, 100 / 16), (500, 8, 2.0), (1599, 8, 2.0), (1600, 32, 2.0), (10**6, 32, 2.0)],
)
def test_few_rows_are_passed_more_often_in_smaller_batches(groups: int, batch: int, epochs: float) -> None:
    chosen, why = amount(TrainSettings(), groups)
    assert (chosen.batch_size, chosen.num_train_epochs) == (batch, pytest.approx(epochs))
    assert bool(why) == (groups < 1600)
    assert groups < 125 / MOST * 8 or -(-groups // batch) * epochs >= STEPS - 1


@pytest.mark.parametrize(
    ("given", "batch", "epochs"),
    [
        ({"num_train_epochs": 1.0}, 8, 1.0),
        ({"batch_size": 32}, 32, MOST),  # 4 steps a pass
        ({"batch_size": 4}, 4, 100 / 32),
        ({"batch_size": 16, "num_train_epochs": 3.0}, 16, 3.0),
        ({"max_steps": 5}, 32, 2.0),
    ],
)
def test_what_is_given_stays(given: dict[str, float], batch: int, epochs: float) -> None:
    chosen, why = amount(TrainSettings(**given), 125)  # type: ignore[arg-type]
    assert (chosen.batch_size, chosen.num_train_epochs) == (batch, pytest.approx(epochs))
    assert all(f"--{flag}" not in why for flag in ("batch-size", "num-train-epochs") if flag.replace("-", "_") in given)


def test_prompts_of_methods_that_draw_are_no_few_rows() -> None:
    assert amount(TrainSettings(), 125, draws=True) == (TrainSettings(batch_size=32, num_train_epochs=2.0), "")


def test_narrow_bases_learn_at_higher_rates() -> None:
    assert [likelihood_rate("lora", width) for width in (96, 576, 4096, 8192)] == [3.7e-3, 9.1e-4, 2e-4, 1.2e-4]
    assert likelihood_rate("none", 4096) == 2e-5


def test_it_is_said_and_done(labels: Path, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = train(labels, model=str(base), limit=24, learning_rate=1e-6)
    groups = policy.facts["groups"]
    assert policy.facts["steps"] == round(MOST * -(-groups // 8))
    assert f"{groups} groups are few: batches of 8 and 12 epochs" in capsys.readouterr().err
