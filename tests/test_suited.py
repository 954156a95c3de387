"""`steer methods --for ROWS`: which methods can train on rows, and what the others miss."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from steer.methods import METHODS
from steer.rows import Row, read_rows
from steer.rows.labelled import Labelled
from steer.training.suited import suited, suited_table
from steer.training.train import train


def row(number: int, reward: float | None) -> Row:
    turns = [{"role": "user", "content": f"prompt {number}"}]
    return {"id": str(number), "prompt": turns, "response": f"text {number}", "reward": reward, "split": "train"}


def test_labelled_rows_suit_all_but_methods_that_need_a_policy_first(labels: Path) -> None:
    found = {s.method: s for s in suited(labels)}
    assert list(found) == list(METHODS)
    drawers = {"rso", "rebel", "bond", "rest-em"}
    assert {name for name, s in found.items() if s.missing} == {"spin", "steerlm2", *drawers}
    assert found["spin"].missing.startswith("no response was drawn by the policy itself.")
    for name in drawers:
        assert found[name].groups
        assert found[name].missing.startswith("responses that the policy drew: none of these ")
        assert found[name].missing.endswith(f' rows records that it was. "steer iterate --method {name}" draws them.')
    assert found["steerlm2"].missing.startswith("no prompt has two responses to one target")
    assert found["mle"].groups == sum(row["split"] == "train" for row in read_rows(labels))


def test_thumbs_suit_what_needs_no_pairs() -> None:
    found = {s.method: s.missing for s in suited(Labelled([row(i, float(i % 3 == 0)) for i in range(12)]))}
    able = {name for name, missing in found.items() if not missing}
    assert able == {"mle", "filtered", "rwr", "awr", "unlikelihood", "kto", "bco"}
    assert found["dpo"].startswith("no prompt has two responses with different rewards (12 of 12 have one response")
    assert "none of the" in found["conditional"] or "schema" in found["conditional"]


@pytest.mark.parametrize("how", [{"target": {}}, {"source": "round-2"}])
def test_rows_that_record_that_a_policy_drew_them_suit_what_wants_draws(how: Row) -> None:
    rows = [{**row(i // 4, float(i)), "id": str(i), "response": f"text {i}", **how} for i in range(16)]
    found = {s.method: s.missing for s in suited(Labelled(rows))}
    assert {found[name] for name in ("rso", "rebel", "bond", "rest-em")} == {""}


def test_a_training_says_that_logs_stand_for_draws(
    labels: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{**row, "target": {}} for row in read_rows(labels)]
    told = "rso wants responses that the policy drew: none of these"
    for source, times in ((labels, 1), (replace(Labelled.of(labels), rows=rows), 0)):
        train(source, model=str(base), method="rso", max_steps=1, lora_r=2, batch_size=2, limit=100)
        assert capsys.readouterr().err.count(told) == times


def test_the_table_has_a_line_for_every_method(labels: Path) -> None:
    head, *lines = suited_table(labels).splitlines()
    assert head.split() == ["method", "can", "train", "groups", "rows", "it", "wants", "missing"]
    assert [line.split()[0] for line in lines] == list(METHODS)


@pytest.mark.parametrize("reward", [None, 1.0])
def test_rows_without_rewards_or_with_one_only_suit_likelihood_alone(reward: float | None) -> None:
    found = suited(Labelled([row(i, reward) for i in range(4)]))
    assert [s.method for s in found if not s.missing] == ["mle"]


def test_rows_as_they_were_logged_are_called_so(
    labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"prompt": "Name a fruit.", "chosen": "apple", "rejected": "stone"}\n')
    suited_table(path)
    assert f'becomes rewards and levels by "steer label {path} --output LABELS"' in capsys.readouterr().err
    for rows in (labels, Labelled([row(i, float(i)) for i in range(3)])):
        suited_table(rows)
        assert "as they were logged" not in capsys.readouterr().err
