"""Rows with a weight of their own, and rows that are cut to --max-length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from steer.config.rows import DataConfig
from steer.config.training import TrainConfig
from steer.methods import METHODS
from steer.methods.base import Candidates
from steer.methods.groups import Group, singles
from steer.models.policy import load_policy
from steer.models.tokenization import Tokens
from steer.rows import Row, read_rows, write_rows
from steer.rows.command import data_command
from steer.run_folder import read_json
from steer.training.command import train_command
from steer.training.lengths import prompts_with_room, short_enough

OFFLINE = [name for name, method in METHODS.items() if not method.on_policy and not method.importance]


@pytest.mark.parametrize("name", OFFLINE)
def test_a_weight_multiplies_the_terms_of_its_row(name: str) -> None:
    method = METHODS[name]
    draw = torch.Generator().manual_seed(0)
    mask = torch.ones(3, 2, 4, dtype=torch.bool)
    mask[1, :, 2:] = False
    logps = -torch.rand(3, 2, 4, generator=draw)
    more = {n: torch.rand(3, 2, 4, generator=draw) for n in {"kl", "entropy"} & method.needs}
    c = Candidates(mask, torch.tensor([[1.0, 0.0]] * 3), torch.full((3, 2), -2.0), torch.ones(3, 2), **more)
    settings = method.settings()

    def total(*share: float) -> float:
        weights = torch.tensor(share)[:, None].expand(3, 2)
        return float(method.total(logps, c._replace(share=weights), settings))

    each = [total(*(float(i == j) for j in range(3))) for i in range(3)]
    assert total(1.0, 1.0, 1.0) == pytest.approx(float(method.total(logps, c, settings)), rel=1e-5)
    assert total(0.5, 2.0, 0.0) == pytest.approx(0.5 * each[0] + 2.0 * each[1], rel=1e-5, abs=1e-6)
    assert max(map(abs, each)) > 0


def test_a_prompt_has_the_mean_weight_of_its_candidates() -> None:
    mask = torch.ones(1, 3, 2, dtype=torch.bool)
    mask[0, 2] = False  # padding
    c = Candidates(mask, torch.tensor([[1.0, 0.0, 0.0]]), torch.zeros(1, 3))
    method, logps = METHODS["pro"], -torch.rand(1, 3, 2, generator=torch.Generator().manual_seed(0))
    settings = method.settings()
    plain = float(method.total(logps, c, settings))
    weighted = float(method.total(logps, c._replace(share=torch.tensor([[1.0, 3.0, 9.0]])), settings))
    assert weighted == pytest.approx(2 * plain)


def config(rows: Path, base: Path, output: Path, **more: Any) -> TrainConfig:
    settings = {
        "method": "mle",
        "lora_r": 4,
        "learning_rate": 3e-3,
        "batch_size": 64,
        "max_steps": 1,
        "warmup_steps": 0,
    }
    settings |= {"held_out": 0.0, "max_grad_norm": 0.0}
    return TrainConfig(str(rows), str(base), str(output), **settings | more)  # type: ignore[arg-type]


def saved(folder: Path, rows: list[Row]) -> Path:
    path = folder / "rows.jsonl"
    folder.mkdir()
    write_rows(rows, path)
    return path


def logged(folder: Path) -> float:
    return float(read_json(folder / "done.json")["loss"])


def test_a_row_of_weight_two_teaches_as_two_rows(
    labels: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    some = [{k: row[k] for k in ("id", "prompt", "response")} for row in read_rows(labels)[:6]]
    weighted = saved(tmp_path / "weighted", [{**row, "weight": 1 + i % 2} for i, row in enumerate(some)])
    twice = [{**row, "id": f"{row['id']}-{n}"} for i, row in enumerate(some) for n in range(1 + i % 2)]
    repeated = saved(tmp_path / "repeated", twice)
    train_command(config(weighted, base, tmp_path / "one"))
    said = capsys.readouterr().err
    assert "multiplied by its weight: 6 of 6 rows have one, from 1 to 2, divided by their mean 1.5." in said
    train_command(config(repeated, base, tmp_path / "two"))
    assert "multiplied by its weight" not in capsys.readouterr().err
    one, two = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("one", "two"))
    for name, value in one.items():  # Adam's first step does not see the size of a gradient, only its direction
        torch.testing.assert_close(value, two[name], atol=2e-5, rtol=1e-3)
    train_command(config(saved(tmp_path / "plain", some), base, tmp_path / "three"))
    assert logged(tmp_path / "three") != pytest.approx(logged(tmp_path / "one"), rel=1e-4)


def test_data_keeps_weights(tmp_path: Path) -> None:
    rows = [{"prompt": f"What is {i}?", "response": f"It is {i}.", "weight": w} for i, w in enumerate((0.5, 2, 0, -1))]
    path = saved(tmp_path / "in", rows)
    said = data_command(DataConfig(str(path), str(tmp_path / "out")))
    assert [row.get("weight") for row in read_rows(tmp_path / "out")] == [0.5, 2.0, None]
    assert "1 x a weight that is no number of 0 or more" in said


LONG = [
    {"role": "system", "content": "be brief."},
    {"role": "user", "content": "tell me about bees " * 8},
    {"role": "assistant", "content": "bees sing " * 8},
    {"role": "user", "content": "tell me about cows."},
    {"role": "assistant", "content": "cows sing."},
    {"role": "user", "content": "and homes?"},
]


def rows_of_lengths() -> list[Row]:
    return [
        {"id": "talk", "prompt": LONG, "response": "homes stay warm."},
        {"id": "short", "prompt": LONG[3:4], "response": "cows eat."},
        {"id": "endless", "prompt": LONG[3:4], "response": "cows eat grass " * 30},
        {"id": "asks much", "prompt": [{"role": "user", "content": "tell me about bees " * 30}], "response": "yes."},
    ]


def test_the_earliest_turns_of_a_prompt_are_cut(base: Path) -> None:
    tokenizer = load_policy(str(base)).tokenizer
    rows = rows_of_lengths()
    tokens = Tokens(rows, tokenizer)
    wanted = Tokens([{**rows[0], "prompt": [LONG[0], *LONG[3:]]}], tokenizer)
    longest = wanted.length(rows[0])
    short, cut = short_enough(singles(rows), tokens, None, longest, "prompt")
    assert ([g.rows[0]["id"] for g in short], cut) == (["talk", "short"], 1)
    assert tokens.sequence(rows[0]) == wanted.sequence(rows[0]), "the system's turn stays"
    assert tokens.length(rows[3]) > longest, "a last turn stays whole"
    _, cut = short_enough(singles(rows[:1]), tokens, None, longest - 1, "prompt")
    assert cut == 1
    assert tokens.prefix(rows[0]) == Tokens([{**rows[0], "prompt": [LONG[0], LONG[5]]}], tokenizer).prefix(rows[0])


def test_candidates_of_a_prompt_are_cut_alike(base: Path) -> None:
    tokenizer = load_policy(str(base)).tokenizer
    rows: list[Row] = [{"id": str(i), "prompt": LONG, "response": "homes " * n} for i, n in enumerate((1, 20))]
    tokens = Tokens(rows, tokenizer)
    longest = tokens.length(rows[0])
    _, cut = short_enough([Group(tuple(rows), (1.0, 1.0))], tokens, None, longest, "prompt")
    assert cut == 2
    assert tokens.prefix(rows[0]) == tokens.prefix(rows[1])


def test_a_response_is_cut_and_loses_its_end(base: Path) -> None:
    tokenizer = load_policy(str(base)).tokenizer
    rows = rows_of_lengths()
    tokens, whole = Tokens(rows, tokenizer), Tokens(rows, tokenizer)
    longest = tokens.length(rows[1]) + 5
    short, cut = short_enough(singles(rows), tokens, None, longest, "response")
    assert ([g.rows[0]["id"] for g in short], cut) == (["short", "endless"], 1)
    assert tokens.length(rows[2]) == longest
    kept = tokens.responses["endless"]
    assert kept == whole.responses["endless"][: len(kept)]
    assert list(kept[-1:]) != tokens.end == list(tokens.responses["short"][-1:])


def test_prompts_of_on_policy_methods_are_cut_too(base: Path) -> None:
    rows = rows_of_lengths()[:2]
    tokens = Tokens(rows, load_policy(str(base)).tokenizer)
    longest = 60
    assert [len(g) for g in prompts_with_room(singles(rows), tokens, longest, 20)[:1]] == [1]
    short, cut = prompts_with_room(singles(rows), tokens, longest, 20, "prompt")
    assert (len(short), cut) == (2, 1)
    assert all(len(tokens.prefix(row)) <= 40 for row in rows)


@pytest.mark.parametrize("truncate", ["prompt", "response"])
def test_cut_rows_are_counted_in_the_summary(truncate: str, labels: Path, base: Path, tmp_path: Path) -> None:
    rows = saved(tmp_path / "rows", rows_of_lengths())
    said = train_command(config(rows, base, tmp_path / "out", truncate=truncate, max_length=40))
    facts = read_json(tmp_path / "out" / "done.json")
    assert facts["truncated"] == 1
    assert f"{facts['too_long']} too long, 1 cut in the {truncate}" in said
