"""What runs of a comparison are given: the proxy, the rows that count, the length and the number of responses."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from steer.comparison.comparison import Comparison
from steer.comparison.entry import Entry, cost
from steer.comparison.trained import trained
from steer.config.comparison import CompareConfig
from steer.config.training import TrainConfig
from steer.errors import SteerError
from steer.iteration.settings import IterateSettings
from steer.labelling.scorer import Scorer
from steer.rows import read_rows

GOLD = "data_recipes.world_text:Gold"


def shared(labels: Path, folder: Path, train: str = "", **more: Any) -> Comparison:
    (folder / "train.yaml").write_text(train if "max_steps" in train else f"max_steps: 1\n{train}")
    how: dict[str, Any] = {"train": str(folder / "train.yaml"), "gold": GOLD, "max_new_tokens": 17}
    return Comparison(CompareConfig(str(labels), "model", str(folder / "out"), **(how | more)), folder / "out")


@pytest.mark.parametrize(("method", "draws"), [("remax", 1 + 1), ("rloo:k=4", 4)])
def test_draws_are_counted_with_the_last_of_an_epoch_smaller(method: str, draws: int) -> None:
    settings = TrainConfig("rows", "model", "out", max_steps=100, batch_size=32, max_new_tokens=10)
    steps = [32, 8] * 50
    assert cost(Entry.of(method), settings, 40) == (sum(steps) * draws, sum(steps) * draws * 10, sum(steps) * draws)
    assert cost(Entry.of(method), settings, 32 * 100).responses == 3200 * draws
    assert cost(Entry.of(method), settings, 5).responses == 500 * draws, "fewer prompts than a batch"


def test_rows_beyond_the_limit_do_not_count(labels: Path, tmp_path: Path) -> None:
    found = shared(labels, tmp_path, "max_steps: 0\nlimit: 10\nbatch_size: 4\nnum_train_epochs: 2\n")
    assert found.logs == [row for row in read_rows(labels) if row["split"] == "train"][:10]
    assert found.settings.max_steps == 2 * 3


def test_responses_of_training_are_as_long_as_answers_where_the_file_does_not_say(labels: Path, tmp_path: Path) -> None:
    assert shared(labels, tmp_path).settings.max_new_tokens == 17
    default = TrainConfig("rows", "model", "out").max_new_tokens
    assert shared(labels, tmp_path, f"max_new_tokens: {default}\n").settings.max_new_tokens == default


def test_rounds_draw_at_the_temperature_of_the_comparison(
    labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rounds(*, settings: IterateSettings, **more: Any) -> None:
        assert (settings.temperature, settings.max_new_tokens) == (0.5, 17)
        raise SteerError("seen")

    monkeypatch.setattr(sys.modules["steer.comparison.trained"], "Rounds", rounds)
    with pytest.raises(SteerError, match="seen"):
        trained(
            shared(labels, tmp_path, "learning_rate: 1e-3\n", temperature=0.5),
            Entry.of("raft:rounds=1"),
            0,
            str(labels),
        )


def test_no_run_trains_on_another_scorer_than_the_proxy(
    labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, seen = sys.modules["steer.comparison.trained"], []

    def train(launch: str, config: TrainConfig) -> None:
        seen.append(config.scorer)
        raise SteerError("seen")

    monkeypatch.setattr(module, "train_by", train)
    for proxy in ("", "countable:words"):  # none named: what labelled the rows
        with pytest.raises(SteerError, match="seen"):
            trained(
                shared(labels, tmp_path, "scorer: secret:Gold\nlearning_rate: 1e-3\n", scorer=proxy),
                Entry.of("remax"),
                0,
                str(labels),
            )
    assert seen == [GOLD, "countable:words"]


def test_a_proxy_that_did_not_label_the_rows_is_told(labels: Path, tmp_path: Path) -> None:
    found = shared(labels, tmp_path)
    assert found.caveats == []
    vars(found.examination)["court"] = SimpleNamespace(proxy=Scorer("another", ()))
    (told,) = found.caveats
    assert told.startswith(f"The rows were labelled by {GOLD}, not by the proxy")
