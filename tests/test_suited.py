"""`steer methods --for ROWS`: which methods can train on rows, and what the others miss."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from steer import label
from steer.cli import cli
from steer.errors import SteerError
from steer.labelling.scorer import FIT
from steer.methods import METHODS
from steer.methods.groups import DRAW_MORE
from steer.rows import Row, prompt_key, read_rows, write_rows
from steer.rows.directions import SAY_END
from steer.rows.labelled import Labelled
from steer.training.suited import suited, suited_table
from steer.training.train import train


def row(number: int, reward: float | None) -> Row:
    turns = [{"role": "user", "content": f"prompt {number}"}]
    return {"id": str(number), "prompt": turns, "response": f"text {number}", "reward": reward, "split": "train"}


def test_labelled_rows_suit_all_but_methods_that_need_a_policy_first(labels: Path) -> None:
    found = {s.method: s for s in suited(labels)}
    assert list(found) == list(METHODS)
    assert found["ppo"].able == "yes"  # by the scorer that labelled them
    drawers = {"rso", "rebel", "bond", "sppo", "rest-em"}
    assert {name for name, s in found.items() if s.missing} == {"spin", "steerlm2"}
    assert {name for name, s in found.items() if s.caveat} == drawers
    assert found["spin"].missing.startswith("no response was drawn by the policy itself.")
    for name in drawers:
        assert found[name].groups
        assert found[name].caveat.startswith("none of these ")
        assert found[name].caveat.endswith(f'for its draws: "steer iterate --method {name} --scorer SCORER" draws')
    assert found["steerlm2"].missing.startswith("no prompt has two responses to one target")
    assert found["mle"].groups == sum(row["split"] == "train" for row in read_rows(labels))


def test_thumbs_suit_what_needs_no_pairs() -> None:
    found = {s.method: s.missing for s in suited(Labelled([row(i, float(i % 3 == 0)) for i in range(12)]))}
    able = {name for name, missing in found.items() if not missing}
    assert able == {"mle", "filtered", "rwr", "awr", "a-lol", "unlikelihood", "kto", "bco", "rest-em"}
    assert found["dpo"].startswith("no prompt has two responses with different rewards (12 of 12 have one response")
    assert "none of the" in found["conditional"] or "schema" in found["conditional"]
    for text in (found["dpo"], found["raft"]):
        named = re.search("or take (.*) or (.*), which train on single responses", text)
        assert named
        assert able >= {*named.groups()}


def test_rows_of_one_prompt_do_not_suit_what_compares_responses_across_prompts(base: Path) -> None:
    rows = Labelled([{**row(0, float(i % 2)), "id": str(i), "response": f"text {i}"} for i in range(12)])
    assert [s.missing.partition(",")[0] for s in suited(rows, ["kto", "bco"])] == ["all rows answer one prompt", ""]
    with pytest.raises(SteerError, match="kto: all rows answer one prompt"):
        train(rows, model=str(base), method="kto", max_steps=1)


def test_what_people_said_needs_no_scorer_and_an_attribute_that_has_no_better_end_gets_one() -> None:
    rows = [{"prompt": f"p{i}", "response": f"text {i}", "scores": {"brevity": i % 2}} for i in range(12)]
    raw, labelled = (suited(source, ["kto", "grpo"]) for source in (rows, label(rows, held_out=0, min_support=1)))
    assert raw[0].missing.endswith(
        'Run "steer label ROWS --output LABELS" first: what people said in them needs no scorer.'
    )
    assert labelled[0].missing.endswith('with a scorer of what has a better end, or with "--higher NAME".')
    assert labelled[1].missing.endswith(SAY_END)
    better = label(rows, held_out=0, min_support=1, higher=("brevity",))
    kto, grpo = suited(better, ["kto", "grpo"])
    assert not kto.missing
    assert grpo.missing.endswith(f"{FIT}.")


GOLD = "data_recipes.world_text:Gold"


def test_what_thumbs_are_told_to_draw_and_score_suits_methods_on_pairs(
    labels: Path, trained: Path, tmp_path: Path
) -> None:
    single = {prompt_key(r): r for r in read_rows(labels, limit=24)}.values()
    places = {"POLICY": trained, "SCORER": GOLD, "ROWS": tmp_path / "rows.jsonl"}
    places |= {name: tmp_path / name for name in ("MORE", "LABELS")}
    write_rows((r | {"reward": float(i % 2)} for i, r in enumerate(single)), tmp_path / "rows.jsonl")
    [text] = [s.missing for s in suited(tmp_path / "rows.jsonl") if s.method == "dpo"]
    draw, score = (shlex.split(command) for command in re.findall('"steer (.*?)"', text))
    for command, more in ((draw, ["--max-new-tokens", "30"]), (score, ["--min-support", "1"])):
        done = CliRunner().invoke(cli, [*(str(places.get(word, word)) for word in command), *more])
        assert done.exit_code == 0, done.output
    assert not [s.missing for s in suited(tmp_path / "LABELS") if s.method in ("dpo", "raft") and s.missing]


@pytest.mark.parametrize("kind", ["thumbs", "pairs", "equal", "raw", "scored"])
def test_every_flag_in_the_table_is_one_of_the_command_that_it_stands_in(kind: str) -> None:
    said = {"pairs": lambda i: {"preference": i % 2.0}, "thumbs": lambda i: {"thumbs": i % 2.0}}
    scores = said.get(kind, lambda i: {"thumbs": 1.0})
    rows = [
        {"id": str(i), "prompt": f"p{i // 2 if kind == 'pairs' else i}", "response": f"x{i}", "scores": scores(i)}
        for i in range(24)
    ]
    rows = read_rows(rows)
    scorer = {"scorer": GOLD} if kind == "scored" else {}
    found = suited(Labelled(rows) if kind == "raw" else label(rows, held_out=0, min_support=1, **scorer))
    assert any(s.missing for s in found)
    for text in (s.missing or s.caveat for s in found):
        for name, flags in re.findall(r'"steer (\S+)(.*?)"', text):
            known = {flag for parameter in cli.commands[name].params for flag in parameter.opts}
            assert set(re.findall(r"--[\w-]+", flags)) <= known, text
        assert "--" not in re.sub('".*?"', "", text)


def test_rewards_that_are_one_gap_apart_are_a_caveat_of_methods_that_read_gaps() -> None:
    votes = [
        {"id": f"{i}{j}", "prompt": f"p{i}", "group": str(i), "response": f"{i} {j}", "scores": {"preference": j}}
        for i in range(12)
        for j in (1.0, 0.0)
    ]
    found = {s.method: s.caveat for s in suited(label(votes, held_out=0, min_support=1)) if s.caveat}
    one = "every gap of rewards is 2, so no pair is clearer than another"
    assert {name for name, caveat in found.items() if one in caveat} == {
        "contrastive",
        "odpo",
        "rpo",
        "rebel",
        "sppo",
        "pro",
    }
    assert found["rebel"].startswith(f"{one}; none of these 24 rows records that the policy drew it, so")
    assert found["directional"] == "only preference has a better end, so every weight chooses one response"


@pytest.mark.parametrize("how", [{"target": {}}, {"source": "round-2"}])
def test_rows_that_record_that_a_policy_drew_them_suit_what_wants_draws(how: Row) -> None:
    rows = [{**row(i // 4, float(i)), "id": str(i), "response": f"text {i}", **how} for i in range(16)]
    found = {s.method: s.missing for s in suited(Labelled(rows))}
    assert {found[name] for name in ("rso", "rebel", "bond", "sppo", "rest-em")} == {""}


def test_a_training_says_that_logs_stand_for_draws(
    labels: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{**row, "target": {}} for row in read_rows(labels)]
    [told] = [s.caveat for s in suited(labels) if s.method == "rso"]
    for source, times in ((labels, 1), (replace(Labelled.of(labels), rows=rows), 0)):
        train(source, model=str(base), method="rso", max_steps=1, lora_r=2, batch_size=2)
        assert capsys.readouterr().err.count(f"rso: {told}.") == times


def test_the_table_has_a_line_for_every_method(labels: Path) -> None:
    table, below = suited_table(labels).split("\n\n")
    head, *lines = table.splitlines()
    assert head.split() == ["method", "can", "train", "groups", "rows", "it", "wants", "why"]
    assert [line.split()[0] for line in lines] == list(METHODS)
    cells = {line.split()[0]: re.split(r"  +", line) for line in lines}
    assert {cells[name][1] for name in ("mle", "conditional")} == {"yes"}
    assert (cells["rso"][1], cells["rso"][-1][:13]) == ("yes, but", "none of these")
    assert (cells["spin"][1], cells["spin"][-1]) == ("no", "no response was drawn by the policy itself [1]")
    assert below.splitlines()[0] == (
        '[1] Run "steer iterate ROWS --method spin --model MODEL --scorer SCORER --output ROUNDS".'
    )


def test_a_remedy_of_many_methods_stands_once_below_the_table() -> None:
    thumbs = [{"id": str(i), "prompt": f"p{i}", "response": f"x{i}", "scores": {"thumbs": i % 2.0}} for i in range(24)]
    labelled = label(thumbs, held_out=0, min_support=1)
    table, below = suited_table(labelled).split("\n\n")
    cells = {line.split()[0]: re.split(r"  +", line) for line in table.splitlines()}
    reason = "no prompt has two responses with different rewards (24 of 24 have one response, 0 have ties only)"
    assert {cells[name][-1] for name in ("dpo", "rrhf", "coh")} == {f"{reason} [1]"}
    assert below.splitlines()[0] == f"[1] {DRAW_MORE}"
    assert below.count("steer generate POLICY --input ROWS --target none") == 1
    assert {cells[name][1] for name in ("remax", "rloo", "grpo", "ppo")} == {"with --scorer"}
    assert [s.method for s in suited(labelled, ["kto", "dpo"])] == ["kto", "dpo"]
    assert "\n\n" not in suited_table(labelled, ["mle", "kto"])


@pytest.mark.parametrize(("reward", "able"), [(None, {"mle"}), (1.0, {"mle", "rest-em"}), (-1.0, {"mle"})])
def test_rows_without_rewards_or_with_one_only_suit_likelihood_alone(reward: float | None, able: set[str]) -> None:
    """Of all rows, or of those that reach a threshold, be they all of them."""
    found = suited(Labelled([row(i, reward) for i in range(4)]))
    assert {s.method for s in found if not s.missing} == able


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
