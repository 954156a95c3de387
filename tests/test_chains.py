"""Groups of the rows of c-rlft, coh, rest-em and spin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from steer.config.training import TrainConfig
from steer.errors import SteerError
from steer.methods import METHODS, c_rlft, coh, dpo, rest_em, spin
from steer.methods.groups import conversations
from steer.rows import Row, read_rows
from steer.run_folder import read_json
from steer.training.command import train_command


def row(name: str, reward: float | None, prompt: str = "p", **more: Any) -> Row:
    turns = [{"role": "user", "content": prompt}]
    known = {"id": name, "prompt": turns, "response": f"text of {name}", "reward": reward, "levels": {"good": 1}}
    return {**known, **more}


def test_c_rlft_weighs_what_is_not_good_less() -> None:
    rows = [row("a", 2.0), row("b", 0.0), row("c", 1.0), row("d", None), row("e", 5.0, levels={})]
    found = c_rlft.groups(rows, c_rlft.Settings(bad=0.2))
    assert [(g.rows[0]["id"], g.weights[0]) for g in found] == [("a", 1.0), ("b", 0.2), ("c", 1.0)]


def test_the_second_answer_of_a_chain_reads_the_first_one_in_either_order() -> None:
    rows = [row("a", 2.0, levels={"good": 1}), row("b", 0.0, levels={"good": 0})]
    found = [g.rows[0] for g in coh.groups(rows, coh.Settings())]
    assert [(r["response"], r["levels"]["good"]) for r in found] == [
        ("text of a", 1),
        ("text of b", 0),
        ("text of b", 0),
        ("text of a", 1),
    ]
    assert [r["id"] for r in found if r["id"] in "ab"] == ["a", "b"]
    turns = [("user", "p"), ("assistant", "text of a"), ("user", coh.AGAIN)]
    assert [(turn["role"], turn["content"]) for turn in found[1]["prompt"]] == turns
    assert [len(g.rows) for g in conversations(coh.groups(rows, coh.Settings()))] == [2, 2]  # each computed together


def test_pairs_that_call_tools_make_no_chain() -> None:
    """The first answer of a chain lost its calls, so that the second one read an empty turn."""
    call = {"tool_calls": [{"id": "1", "function": {"name": "weigh", "arguments": {}}}]}
    rows = [row("a", 2.0), row("b", 0.0), row("c", 2.0, "q", response="", **call), row("d", 0.0, "q")]
    found = {g.rows[0]["id"] for g in coh.groups(rows, coh.Settings())}
    assert found == {"a", "b", "a b", "b a"}
    with pytest.raises(SteerError, match="an answer of each of the 1 pairs calls tools"):
        coh.groups(rows[2:], coh.Settings())


def test_chains_train(labels: Path, base: Path, tmp_path: Path) -> None:
    config = {"method": "coh", "lora_r": 4, "max_steps": 2, "batch_size": 4, "learning_rate": 1e-3}
    train_command(TrainConfig(str(labels), str(base), str(tmp_path / "run"), **config))  # type: ignore[arg-type]
    facts = read_json(tmp_path / "run" / "done.json")
    pairs = METHODS["dpo"].groups([r for r in read_rows(labels) if r["split"] == "train"], dpo.Settings())
    assert facts["rows"] == len({r["id"] for pair in pairs for r in pair.rows}), "not their second answers beside them"
    assert facts["loss"] > 0


def test_rest_em_takes_what_is_good_enough_and_not_too_much_of_a_prompt() -> None:
    rows = [row(f"a{i}", 1.0 + i) for i in range(5)] + [row("b", -1.0, "q"), row("c", 0.5, "q")]
    found = [g.rows[0]["id"] for g in rest_em.groups(rows, rest_em.Settings(threshold=0.5, most=3))]
    assert len(found) == 4
    assert {"c"} < set(found) < {"c", *(f"a{i}" for i in range(5))}
    many = [row(f"{p} {i}", 1.0 + i, str(p)) for p in range(40) for i in range(3)]
    picked = [g.rows[0]["reward"] for g in rest_em.groups(many, rest_em.Settings(most=1))]
    assert len(picked) == 40
    assert set(picked) == {1.0, 2.0, 3.0}  # any of them
    with pytest.raises(SteerError, match=r"no response has a reward of 9 or more\. Lower --set threshold\."):
        rest_em.groups(rows, rest_em.Settings(threshold=9.0))
    won = [row(f"{i}", 1.0) for i in range(6)]
    assert len(rest_em.groups(won, rest_em.Settings())) == 6, "a round in which all succeed is no reason to stop"


def test_spin_sets_the_best_logged_response_above_those_of_the_last_round() -> None:
    logs = [row("bad", 0.0), row("good", 2.0), row("alone", 0.0, "q")]
    drawn = [row("old", 9.0, source="round-1"), row("new", 9.0, source="round-2")]
    same = row("same", 0.0, "q", source="round-2", response="text of alone")
    found = spin.groups([*logs, *drawn, same], spin.Settings())
    assert [[r["id"] for r in g.rows] for g in found] == [["good", "new"]]
    one, other = ({"tool_calls": [{"id": n, "function": {"name": n, "arguments": {}}}]} for n in ("weigh", "count"))
    calls = [row("logged", 0.0, **one), row("again", 0.0, source="round-1", **one | {"response": "text of logged"})]
    calls += [row("drawn", 0.0, source="round-1", **other | {"response": "text of logged"})]
    assert [[r["id"] for r in g.rows] for g in spin.groups(calls, spin.Settings())] == [["logged", "drawn"]]
    with pytest.raises(SteerError, match="no response was drawn by the policy itself"):
        spin.groups(logs, spin.Settings())
