"""Every assistant turn of a conversation: rows that belong together, and one computation of what they share."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SHARED

import steer
from data_recipes import layouts
from data_recipes.marks import LEFT_OUT
from steer.config.labelling import LabelConfig
from steer.config.rows import DataConfig
from steer.config.training import TrainConfig
from steer.errors import SteerError
from steer.labelling.command import label_command
from steer.methods.groups import Group, conversations, singles
from steer.models.collate import DEPTH, Batch, Sequence_, collate, cost, line
from steer.models.log_probs import ResponseLogps, visible
from steer.models.policy import load_policy
from steer.models.tokenization import Tokens
from steer.rows import Tally, read, read_rows, split_of
from steer.rows.command import data_command
from steer.rows.reading import Reading
from steer.run_folder import read_json
from steer.training.batches import Conditioning, Plan
from steer.training.command import train_command
from tests.test_batch import NAMES, SCHEMA
from tests.test_logps import KINDS
from tests.test_policy import ARCHITECTURES, model_of

Record = dict[str, Any]


def turns(*texts: str, **last: Any) -> list[Record]:
    """Turns of user and assistant in turn; `last`: what else the last one says."""
    talk: list[Record] = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
    return [*talk[:-1], {**talk[-1], **last}]


def every(record: Record) -> list[Record]:
    return layouts.rows(record, every=True)


# Rows.


def test_every_answer_is_a_row_behind_the_turns_before_it() -> None:
    talk = turns("Hi", "Hello", "Apples?", "Good", "Thanks")
    first, second = every({"id": "c", "messages": talk, "topic": "fruit", "quality": 3})
    assert [row["prompt"] for row in (first, second)] == [talk[:1], talk[:3]]
    assert [row["response"] for row in (first, second)] == ["Hello", "Good"]
    assert [row["id"] for row in (first, second)] == ["c:0", "c:1"]
    assert [row["conversation"] for row in (first, second)] == ["c", "c"]
    assert [row["scores"] for row in (first, second)] == [{"quality": 3.0}] * 2, "the conversation's"
    assert [row["topic"] for row in (first, second)] == ["fruit", "fruit"]
    assert "after_response" not in first
    assert second["after_response"] == talk[4:]
    unnamed = every({"messages": talk})
    assert unnamed == every({"messages": talk})
    assert len({row["id"] for row in unnamed}) == 2
    assert len({row["conversation"] for row in unnamed}) == 1
    (last,) = layouts.rows({"id": "c", "messages": talk})
    assert (last["id"], last["response"], "conversation" in last) == ("c", "Good", False)


OWN = [
    ("conversations", {"label": "helpful:4,verbose:0"}, {"helpful": 4.0, "verbose": 0.0}),
    ("conversations", {"rating": 4}, {"rating": 4.0}),
    ("messages", {"scores": {"helpful": 4, "verbose": None}}, {"helpful": 4.0}),
    ("messages", {"attributes": {"helpful": 4}}, {"helpful": 4.0}),
    ("messages", {"rating": 2, "tokens": 17}, {"rating": 2.0}),
    ("messages", {"thumbs": "up"}, {"thumbs": 1.0}),
    ("messages", {"feedback": {"helpful": 4}}, {"helpful": 4.0}),
]


@pytest.mark.parametrize(("column", "said", "scores"), OWN)
def test_a_turn_has_its_own_scores_or_those_of_its_conversation(column: str, said: Record, scores: Record) -> None:
    talk = [*turns("Hi", "Hello", **said), *turns("Apples?", "Good")]
    first, second = every({column: talk, "scores": {"helpful": 1, "safe": 1}})
    assert first["scores"] == {"helpful": 1, "safe": 1, **scores}
    assert second["scores"] == {"helpful": 1, "safe": 1}
    assert "label" not in json.dumps([first, second])


def test_the_last_answer_has_its_own_scores_too() -> None:
    (row,) = layouts.rows({"messages": turns("Hi", "Hello", "Apples?", "Good", rating=2)})
    assert row["scores"] == {"rating": 2.0}


UNTAUGHT: list[Record] = [{"weight": 0}, {"weight": 0.0}, {"train": False}, {"masked": True}, {"loss_weight": "0"}]


@pytest.mark.parametrize("mark", UNTAUGHT)
@pytest.mark.parametrize("column", ["messages", "conversations"])
def test_a_turn_of_weight_zero_is_read_and_not_learned(mark: Record, column: str) -> None:
    talk = [*turns("Hi", "Hello", **mark), *turns("Apples?", "Good", weight=1)]
    first, second = every({"id": "c", column: talk})
    assert first[LEFT_OUT] == "turn 2 is not to be learned (weight 0 or train false)"
    assert LEFT_OUT not in second
    assert [turn["content"] for turn in second["prompt"]] == ["Hi", "Hello", "Apples?"]
    assert second["id"] == "c:1", "ids do not depend on weights"


def test_turns_that_cannot_be_learned_say_why() -> None:
    call = {"tool_calls": [{"type": "function", "function": {"name": "weigh", "arguments": {}}}]}
    greeting = {"role": "assistant", "content": "Welcome"}
    talk = [greeting, *turns("Weigh it", "", **call), {"role": "tool", "content": "3 kg"}]
    talk += [*turns("x", "Three kilos")[1:], *turns("And?", " "), *turns("Well?", "Heavy")]
    rows = every({"messages": talk})
    assert [row.get(LEFT_OUT, "") for row in rows] == [
        "turn 1 answers no turn of the user",
        "",
        "",
        "turn 7 is blank",
        "",
    ]


def test_only_the_last_answer_ended_as_the_record_says() -> None:
    talk = turns("Hi", "Hello", "Apples?", "Good")
    first, second = every({"messages": talk, "finish_reason": "length"})
    assert (first["finished"], second["finished"]) == (True, False)
    first, second = every({"messages": [*turns("Hi", "Hel", finish_reason="length"), *talk[2:]]})
    assert first["finished"] is False


def test_other_layouts_learn_their_response_alone(tmp_path: Path) -> None:
    record = {"prompt": turns("Hi", "Hello", "Apples?"), "response": "Good", "scores": {}}
    assert every(record) == layouts.rows(record)
    tally = Tally()
    assert len(list(read([record], reading=Reading(turns="all"), tally=tally))) == 1
    assert tally.turns["asked"] == 1


def log(path: Path, records: list[Record]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def talks(number: int) -> list[Record]:
    """Conversations of two to four answers, every third with the same opening, some turns of weight 0."""
    records = []
    for i in range(number):
        said = ["hi" if i % 3 == 0 else f"apples {i}?"]
        for j in range(2 + i % 3):
            said += [f"answer {i} {j}", f"and {i} {j}?"]
        talk = turns(*said[:-1])
        if i % 4 == 0:
            talk[1]["weight"] = 0
        for j, turn in enumerate(talk):
            turn |= {"scores": {"helpful": (i + j) % 5}} if turn["role"] == "assistant" else {}
        records.append({"id": f"c{i}", "messages": talk})
    return records


def test_data_says_what_became_of_the_turns_and_splits_by_conversation(tmp_path: Path) -> None:
    source = log(tmp_path / "log.jsonl", talks(60))
    said = data_command(DataConfig(source, str(tmp_path / "rows"), turns="all", held_out=0.3))
    assert "turns: 60 conversations gave 165 rows; 15 assistant turns are not learned." in said
    assert f"left out: 15 like {source}:1: turn 2 is not to be learned (weight 0 or train false)" in said
    assert "whole conversation" not in said, "all scores are the turns' own"
    rows = read_rows(tmp_path / "rows")
    assert len(rows) == 165
    for name in ("conversation", "prompt"):
        sides: dict[str, set[str]] = {}
        for row in rows:
            sides.setdefault(json.dumps(row[name]), set()).add(row["split"])
        assert all(len(side) == 1 for side in sides.values()), f"one {name} on both sides"
    assert Counter(row["split"] for row in rows).keys() == {"train", "test"}
    assert [row["id"] for row in rows] == [row["id"] for row in read_rows(source, turns="all")], "CLI = API"
    with pytest.raises(SteerError, match="turns: unknown 'every'; Known: all, last"):
        read_rows(source, turns="every")


def test_scores_of_a_conversation_go_to_every_turn_and_that_is_said(tmp_path: Path) -> None:
    source = log(tmp_path / "log.jsonl", [{"messages": turns("Hi", "Yes", "And?", "No"), "quality": 3, "year": 2024}])
    said = data_command(DataConfig(source, str(tmp_path / "rows"), turns="all", held_out=0))
    assert "turns: 1 conversations gave 2 rows." in said
    assert "turns: 2 rows have scores of their whole conversation, not of their turn." in said
    assert [row["scores"] for row in read_rows(tmp_path / "rows")] == [{"quality": 3.0}] * 2


def test_a_first_turn_is_on_the_side_of_its_prompt() -> None:
    single, turn = ({"prompt": turns("Hi"), **more} for more in ({}, {"conversation": "c"}))
    assert all(split_of(single, 0.5, seed) == split_of(turn, 0.5, seed) for seed in range(20))


def test_label_takes_every_turn_as_the_library_does(tmp_path: Path) -> None:
    source = log(tmp_path / "log.jsonl", talks(30))
    label_command(LabelConfig(source, str(tmp_path / "labels"), turns="all", min_support=1, held_out=0.2))
    labelled = steer.label(source, turns="all", min_support=1, held_out=0.2)
    assert read_rows(tmp_path / "labels") == labelled.rows
    assert len(labelled.rows) == sum(2 + i % 3 for i in range(30)) - 8
    assert all(row["levels"]["helpful"] == row["scores"]["helpful"] for row in labelled.rows)


REAL = {  # file -> conversations, rows, turns that are not learned
    "llm_rubric": (223, 795, 223),  # each begins with a greeting
    "steerlm_format_512": (512, 1013, 0),
}


@pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="no shared data beside the repository")
@pytest.mark.parametrize("name", REAL)
def test_real_conversations(name: str, tmp_path: Path) -> None:
    path = SHARED / "data" / f"{name}.jsonl.gz"
    tally = Tally()
    rows = list(read(path, reading=Reading(turns="all"), tally=tally))
    assert tuple(tally.turns[count] for count in ("conversations", "rows", "left out")) == REAL[name]
    assert len(rows) == tally.turns["rows"]
    last = {row["conversation"]: row for row in rows}
    once = list(read(path, reading=Reading(), tally=Tally()))
    assert len({row["id"] for row in rows}) == len(rows)
    assert {json.dumps(row["prompt"]) for row in last.values()} <= {json.dumps(row["prompt"]) for row in once}


@pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="no shared data beside the repository")
def test_a_log_with_a_row_for_each_turn_names_its_conversations(tmp_path: Path) -> None:
    source, named = str(SHARED / "data" / "topical_chat_turns.jsonl.gz"), ("conversation=group",)
    data_command(DataConfig(source, str(tmp_path / "rows"), map=named, limit=2000, held_out=0.3, resplit=True))
    rows = read_rows(tmp_path / "rows")
    groups = conversations(singles(rows))
    assert len(groups) == len({row["conversation"] for row in rows}) < 110
    assert all(len({row["split"] for row in group.rows}) == 1 for group in groups), "its prompts are one text each"
    assert Counter(row["split"] for row in rows).keys() == {"train", "test"}


# Layout.


def test_turns_branch_off_where_their_conditions_stand() -> None:
    one, two, three = (
        Sequence_([5, 6, 9], [7, 2]),
        Sequence_([5, 6, 7, 2, 8, 10], [3, 2]),
        Sequence_([5, 6, 7, 2, 8, 3, 2, 4, 11], [1]),
    )
    made = line([one, two, three])
    assert made.ids == [5, 6, *(9, 7, 2), *(7, 2, 8), *(10, 3, 2), *(3, 2, 4, 11, 1)]
    assert made.mask == [*[1 + 4 * DEPTH] * 2, *[2] * 3, *[3 + 2 * DEPTH] * 3, *[4] * 3, *[5] * 5]
    assert made.positions == [2, 3, 8, 9, 14]
    seen = visible(torch.tensor([made.mask]))[0]
    paths = [row.nonzero().flatten().tolist() for row in seen]
    assert [paths[i] for i in (4, 10, 15)] == [
        [0, 1, 2, 3, 4],
        [0, 1, 5, 6, 7, 8, 9, 10],
        [0, 1, 5, 6, 7, *range(11, 16)],
    ]
    assert cost([one, two, three], shared=True) == 16
    assert cost([one, two, three], shared=False) == 3 * 10


def test_an_answer_without_a_condition_is_computed_once() -> None:
    one, two = Sequence_([5, 6], [7, 2]), Sequence_([5, 6, 7, 2, 8], [3, 2])
    made = line([one, two])
    assert made.ids == [5, 6, 7, 2, 8, 3, 2], "the conversation itself"
    assert made.positions == [1, 2, 4, 5]
    assert visible(torch.tensor([made.mask]))[0].sum(-1).tolist() == [1, 2, 3, 4, 5, 6, 7]


def test_steps_of_a_loop_share_what_a_later_prompt_has_dropped() -> None:
    one, two = Sequence_([5, 6], [7, 8, 2]), Sequence_([5, 6, 7, 8, 2, 9], [7, 4, 2])
    three, later = Sequence_([5, 6, 7, 8, 2, 9, 7, 4, 2, 10], [3]), Sequence_([5, 6, 8, 2, 9, 4, 2, 10, 3, 11], [3])
    made = line([one, two, three, later])
    assert made.ids == [5, 6, *(7, 8, 2, 9, 7, 4, 2, 10, 3), *(8, 2, 9, 4, 2, 10, 3, 11, 3)]
    assert cost([one, two, three, later], shared=True) == 20


def conversation(answers: int, start: int, condition: bool = True) -> tuple[list[Sequence_], dict[str, list[int]]]:
    """Turns whose tokens all differ, and the tokens of prompts, conditions and answers."""
    ids = iter(range(start, start + 1000))
    history: list[int] = [next(ids) for _ in range(4)]
    sequences, kinds = [], {"prompt": list(history), "condition": [], "answer": []}
    for i in range(answers):
        asked, answer = [next(ids) for _ in range(3)], [next(ids) for _ in range(2 + i)]
        told = [next(ids) for _ in range(2)] if condition else []
        sequences.append(Sequence_([*history, *asked, *told], answer))
        history += [*asked, *answer]
        kinds["prompt"] += asked
        kinds["condition"] += told
        kinds["answer"] += answer
    return sequences, kinds


@pytest.mark.parametrize("answers", [1, 2, 5, 9])
@pytest.mark.parametrize("condition", [True, False])
def test_every_prompt_token_is_computed_once_and_every_answer_at_most_twice(answers: int, condition: bool) -> None:
    talks = [conversation(n, 1000 * n, condition) for n in (answers, 3)]
    ones = [[1.0] * len(s) for s, _ in talks]
    made = collate([s for s, _ in talks], pad=0, rewards=ones, weights=ones, shared=True)
    times = Counter(made.input_ids.flatten().tolist())
    for sequences, kinds in talks:
        assert {times[i] for i in kinds["prompt"]} == {1}
        assert {times[i] for i in kinds["condition"]} <= {1}
        inner, last = kinds["answer"][: -len(sequences[-1].response)], sequences[-1].response
        assert {times[i] for i in inner} <= {2 if condition else 1}
        assert {times[i] for i in last} == {1}, "no history has the last answer"
        counted = sum(times[i] for kind in kinds.values() for i in kind)
        assert cost(sequences, shared=True) == counted
    assert made.tokens == sum(len(s.prefix) + len(s.response) for sequences, _ in talks for s in sequences)
    assert made.targets.tolist() == [i for sequences, _ in talks for s in sequences for i in s.response]
    if condition:
        assert made.input_ids.flatten()[made.positions + 1].equal(made.targets)


def small(seed: int, *, forgets: bool = False, condition: bool = True) -> list[Sequence_]:
    """Turns of a conversation in a vocabulary of 64; `forgets`: later prompts hold another form of the answers."""
    rng = np.random.default_rng(seed)

    def ids(n: int) -> list[int]:
        return [int(i) for i in rng.integers(3, 64, n)]

    history, sequences = ids(3), []
    for n in (3, 5, 2):
        asked, answer = ids(2), ids(n)
        sequences.append(Sequence_([*history, *asked, *(ids(2) if condition else [])], [*answer, 2]))
        history = [*history, *asked, *(answer[n // 2 :] if forgets else answer), 2]
    return sequences


GROUPS = {
    "three conversations in a row": [small(1), small(2)[:2], [small(3)[0]]],
    "no condition": [small(1, condition=False), small(2, condition=False)],
    "a template that drops what was thought": [small(1, forgets=True), small(2, forgets=True)],
    "turns out of order": [[small(1)[i] for i in (2, 0, 1)]],
    "several answers to a turn": [[*small(1), Sequence_(small(1)[1].prefix, [9, 2]), *small(1)[1:2]]],
    "nothing in common": [[*small(1)[:1], *small(7)[:1]]],
}


def values(groups: list[list[Sequence_]], kind: str, *, shared: bool) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Log-probs of all response tokens, and gradients of a sum of them that weighs each differently."""
    ones = [[1.0] * len(g) for g in groups]
    made: Batch = collate(groups, pad=0, rewards=ones, weights=ones, shared=shared)
    assert made.shared == shared
    model = model_of(kind)
    logps = ResponseLogps(model)(*made.inputs, shared=made.shared)
    (logps * torch.linspace(-1, 1, len(logps))).sum().backward()
    return logps.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("case", GROUPS)
@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "gemma2"])  # gemma2: a window that slides
def test_log_probs_and_gradients_are_those_of_separate_rows(
    case: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ARCHITECTURES, kind, KINDS[kind])
    groups = GROUPS[case]
    separate, gradients = values([[s] for g in groups for s in g], kind, shared=False)
    together, shared = values(groups, kind, shared=True)
    assert separate.std() > 0.05
    torch.testing.assert_close(together, separate, atol=1e-5, rtol=1e-5)
    assert gradients.keys() == shared.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(shared[name], gradient, atol=1e-5, rtol=1e-4, msg=name)


# Training.


def test_rows_of_a_conversation_are_one_group_where_the_loss_sees_them_one_by_one() -> None:
    rows = [{"id": str(i), "prompt": turns("Hi"), **({"conversation": c} if c else {})} for i, c in enumerate("a bab")]
    rows[1].pop("conversation")
    joined = conversations([Group((row,), (float(i),)) for i, row in enumerate(rows)])
    assert [[row["id"] for row in g.rows] for g in joined] == [["0", "3"], ["1"], ["2", "4"]]
    assert [g.weights for g in joined] == [(0.0, 3.0), (1.0,), (2.0, 4.0)]
    pairs = [Group((rows[0], rows[3]), (1.0, 1.0)), *singles(rows)]
    assert conversations(pairs) == pairs
    listed = [{**row, "conversation": turns("Hi")} for row in rows]  # a column of the same name that is no name
    assert conversations(singles(listed)) == singles(listed)


@pytest.fixture(scope="module")
def tokenizer(tiny: Path) -> Any:
    return load_policy(str(tiny)).tokenizer


WORDS = ("tell me about bees.", "bees give honey.", "tell me about trees.", "trees give shade.", "and bees?", "honey.")


def test_turns_lose_parts_of_their_conditions_each_by_itself(tokenizer: Any) -> None:
    rows = every({"id": "c", "messages": turns(*WORDS)})
    rows = [{**row, "levels": {"helpfulness": 3, "warmth": 4}} for row in rows]
    conditioning = Conditioning(SCHEMA, NAMES, attribute_dropout=0.3, condition_dropout=0.1)
    plan = Plan(conversations(singles(rows)), Tokens(rows, tokenizer), conditioning, 4, 200, seed=0)
    seen = Counter(
        tuple(s.prefix[len(plan.tokens.prefix(row)) :] != [] for row, s in zip(rows, plan.sequences(epoch, 0)))
        for epoch in range(60)
    )
    assert len(seen) > 2, "not all or none"
    one = Plan(singles(rows[:1]), plan.tokens, conditioning, 4, 200, seed=0)
    assert all(one.sequences(e, 0)[0] == plan.sequences(e, 0)[0] for e in range(20)), "the first as a single row"


@pytest.mark.parametrize("template", ["tags", "words"])
def test_a_chat_template_prints_a_history_that_all_turns_share(tokenizer: Any, template: str) -> None:
    from steer.conditioning.condition import TEMPLATES, worded

    rows = every({"id": "c", "messages": turns(*WORDS)})
    rows = [{**row, "levels": {"helpfulness": i + 1, "warmth": 4}} for i, row in enumerate(rows)]
    schema = worded(SCHEMA) if TEMPLATES[template].in_turn else SCHEMA
    conditioning = Conditioning(schema, NAMES, template, attribute_dropout=0.0, condition_dropout=0.0)
    tokens = Tokens(rows, tokenizer, template=template)
    sequences = Plan(conversations(singles(rows)), tokens, conditioning, 4, 200, seed=0).sequences(0, 0)
    without = [tokens.sequence(row) for row in rows]
    history = len(without[-1].prefix)
    more = sum(len(s.prefix) - len(w.prefix) + len(s.response) for s, w in zip(sequences, without))
    marks = 0 if template == "tags" else 2 * len(rows)  # what follows a condition in words depends on it
    assert history + more - len(rows) <= cost(sequences, shared=True) <= history + more + marks
    assert cost(without, shared=True) == history + len(without[-1].response), "the conversation itself"


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty conversations in words of the world, labelled; every turn is a row."""
    folder = tmp_path_factory.mktemp("talks")
    rng = np.random.default_rng(0)
    records = []
    for i in range(40):
        said = [str(rng.choice(WORDS)) for _ in range(2 * (1 + i % 4))]
        talk = turns(*said)
        for turn in talk[1::2]:
            turn["scores"] = {"helpful": float(rng.integers(5)), "verbose": float(rng.integers(3))}
        records.append({"id": f"c{i}", "messages": talk})
    source = log(folder / "log.jsonl", records)
    label_command(LabelConfig(source, str(folder / "labels"), turns="all", min_support=1, held_out=0.2))
    return folder / "labels"


FAST: dict[str, Any] = {"lora_r": 4, "lora_alpha": 8, "learning_rate": 3e-3, "template": "tags"}


@pytest.mark.parametrize("method", ["mle", "conditional", "rwr"])
def test_training_gives_what_the_plain_layout_gives(labels: Path, base: Path, tmp_path: Path, method: str) -> None:
    facts = {}
    for plain in (False, True):
        out = tmp_path / f"{plain}"
        more = {"plain_layout": plain, "batch_size": 8, "max_steps": 4, "eval_steps": 2, "micro_batch_tokens": 256}
        train_command(TrainConfig(str(labels), str(base), str(out), method, **FAST, **more))
        facts[plain] = read_json(out / "done.json")
    for name in ("loss", "held_out_loss"):
        assert facts[False][name] == pytest.approx(facts[True][name], abs=1e-4)
    for name in ("rows", "tokens", "too_long", "held_out"):
        assert facts[False][name] == facts[True][name]


def test_one_step_on_all_turns_is_one_step_on_separate_rows(labels: Path, base: Path, tmp_path: Path) -> None:
    separate = [{k: v for k, v in row.items() if k != "conversation"} for row in read_rows(labels)]
    losses = []
    for name, rows in (("turns", str(labels)), ("rows", steer.label(separate, min_support=1))):
        more = {"batch_size": 200, "max_steps": 2, "attribute_dropout": 0.0, "condition_dropout": 0.0}
        policy = steer.train(rows, model=str(base), method="conditional", folder=tmp_path / name, **FAST, **more)
        losses.append(policy.facts["loss"])
        assert policy.facts["rows"] == sum(row["split"] == "train" for row in separate)
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_a_conversation_that_is_too_long_loses_its_last_turns(labels: Path, base: Path, tmp_path: Path) -> None:
    rows = [row for row in read_rows(labels) if row["split"] == "train"]
    tokens = Tokens(rows, load_policy(str(base)).tokenizer)
    longest = 40
    kept = [row for row in rows if tokens.length(row) <= longest]
    assert 0 < len(kept) < len(rows)
    said = train_command(
        TrainConfig(str(labels), str(base), str(tmp_path / "dry"), "mle", dry_run=True, max_length=longest, **FAST)
    )
    assert f"{len(kept)} rows in " in said
    assert f", {len(rows) - len(kept)} rows too long" in said
    short = {row["conversation"] for row in kept}
    assert short == {row["conversation"] for row in rows}, "no conversation is lost as a whole"
    more = {"batch_size": 8, "max_steps": 1, "max_length": longest}
    policy = steer.train(str(labels), model=str(base), method="mle", folder=tmp_path / "p", **FAST, **more)
    assert (policy.facts["rows"], policy.facts["too_long"]) == (len(kept), len(rows) - len(kept))


def test_a_dry_run_says_how_many_tokens_are_computed(labels: Path, base: Path, tmp_path: Path) -> None:
    config = TrainConfig(str(labels), str(base), str(tmp_path / "p"), "mle", dry_run=True, **FAST)
    said = train_command(config)
    rows = [row for row in read_rows(labels) if row["split"] == "train"]
    tokens = Tokens(rows, load_policy(str(base)).tokenizer)
    every = sum(tokens.length(row) for row in rows)
    groups = conversations(singles(rows))
    computed = sum(cost([tokens.sequence(row) for row in g.rows], shared=True) for g in groups)
    assert computed < 0.7 * every
    assert f"{every:,} in one epoch, {computed:,} of them computed" in said
    assert f"{len(rows)} rows in {len(groups)} groups" in said
