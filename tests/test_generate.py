"""Generation: what is drawn, where it ends, what may be asked, and shards that resume."""

from __future__ import annotations

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from steer.conditioning.condition import leaks
from steer.config.generation import GenerateConfig
from steer.errors import SteerError
from steer.evaluation.statistics import interval
from steer.generation.command import generate_command, summary_of
from steer.generation.engines import respond
from steer.generation.generate import Written, generate, held_out_prompts
from steer.generation.requests import Request, condition_text
from steer.generation.sampling import Markers
from steer.generation.settings import Sampling
from steer.labelling.obtained import side_by_side
from steer.labelling.scorer import load_scorer, rewarder
from steer.models.policy import Policy, load_policy
from steer.models.tokenization import Tokens
from steer.rows import prompt_key, read_rows
from steer.rows.schema import Schema

GREEDY = Sampling(temperature=0.0, max_new_tokens=40, batch_size=16)


@pytest.fixture(scope="module")
def jobs(labels: Path) -> list[Request]:
    """Twelve prompts of several lengths at four targets."""
    rows = held_out_prompts(str(labels), 0.1, 0, 0, "train")[:12]
    rows[3] = {**rows[3], "prompt": [{"role": "user", "content": "bees"}]}
    aims: list[dict[str, int]] = [{}, {"verbosity": 0}, {"warmth": 4, "helpfulness": 2}, {"hedging": 1}]
    return [Request(row, aims[i % 4]) for i, row in enumerate(rows)]


def test_a_batch_gives_what_each_prompt_alone_gives(policy: Policy, jobs: list[Request]) -> None:
    together = respond(policy, jobs, GREEDY)
    assert (
        together
        == respond(policy, jobs, replace(GREEDY, batch_size=1))
        == respond(policy, jobs, replace(GREEDY, batch_size=5))
    )
    assert together[::-1] == respond(policy, jobs[::-1], GREEDY)
    assert len({r.text for r in together}) > 2


def test_greedy_is_the_most_likely_token_after_prompt_and_condition(policy: Policy, jobs: list[Request]) -> None:
    end, tokens = policy.tokenizer.eos_token_id, Tokens([job.row for job in jobs], policy.tokenizer)
    for job, found in zip(jobs, respond(policy, jobs, GREEDY)):
        prefix = tokens.sequence(job.row, condition_text(policy, job.target)).prefix
        ids = list(prefix)
        while len(ids) < len(prefix) + GREEDY.max_new_tokens and ids[-1] != end:
            with torch.no_grad():
                ids.append(int(policy.model(torch.tensor([ids])).logits[0, -1].argmax()))
        assert found.finished == (ids[-1] == end)
        assert found.text == policy.tokenizer.decode(ids[len(prefix) : len(ids) - found.finished])


def test_text_follows_from_the_seed(policy: Policy, jobs: list[Request]) -> None:
    first = respond(policy, jobs, Sampling(max_new_tokens=20, seed=5))
    torch.manual_seed(99)  # what was drawn before is no matter
    assert respond(policy, jobs, Sampling(max_new_tokens=20, seed=5)) == first
    assert respond(policy, jobs, Sampling(max_new_tokens=20, seed=6)) != first


def test_greedy_and_drawn_responses_share_a_batch_and_are_what_they_are_alone(
    policy: Policy, jobs: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = Sampling(max_new_tokens=20, seed=5)
    greedy = [job._replace(temperature=0.0) for job in jobs]
    best = respond(policy, jobs, replace(GREEDY, max_new_tokens=20))
    assert respond(policy, [*jobs, *greedy], drawn) == respond(policy, jobs, drawn) + best
    monkeypatch.setattr("steer.generation.engines.shareable", lambda _: False)  # where `model.generate` draws
    whole = respond(policy, [*jobs, *greedy], replace(drawn, batch_size=5))
    assert whole[len(jobs) :] == best
    assert whole[: len(jobs)] != best


def test_responses_end_at_the_end_token_or_are_marked_as_cut(policy: Policy, jobs: list[Request]) -> None:
    found = respond(policy, jobs * 8, Sampling(max_new_tokens=24))
    assert {r.finished for r in found} == {True, False}
    assert not any("<|" in r.text for r in found)
    padded = Policy(policy.model, load_policy(policy.name).tokenizer, policy.card, policy.name)
    padded.tokenizer.pad_token = padded.tokenizer.eos_token
    assert respond(padded, jobs * 8, Sampling(max_new_tokens=24)) == found


def test_what_a_model_recommends_does_not_bias_sampling(base: Path, jobs: list[Request], tmp_path: Path) -> None:
    model = tmp_path / "recommending"
    shutil.copytree(base, model)
    advice = {"do_sample": True, "temperature": 0.01, "top_k": 1, "top_p": 0.1, "repetition_penalty": 9.0, "min_p": 0.9}
    (model / "generation_config.json").write_text(json.dumps({**advice, "eos_token_id": [1, 7], "max_length": 3}))
    plain, advised = load_policy(str(base)), load_policy(str(model))
    jobs = [Request(job.row, {}) for job in jobs]
    sampling = Sampling(max_new_tokens=12)
    plain.model.generation_config.eos_token_id = [1, 7]
    assert respond(advised, jobs, sampling) == respond(plain, jobs, sampling)
    long = respond(advised, jobs * 20, Sampling(max_new_tokens=60))
    word = plain.tokenizer.decode([7])
    assert any(r.finished for r in long)
    assert not any(word in r.text.split() for r in long)  # 7 ends a response too


def test_no_response_holds_a_condition_marker(base: Path, policy: Policy, jobs: list[Request]) -> None:
    assert policy.card is not None
    trace = leaks(policy.card.attributes)
    random = load_policy(str(base))
    jobs = [Request(job.row, {}) for job in jobs] * 6
    sampling = Sampling(max_new_tokens=150, batch_size=72)
    assert sum(bool(trace.search(r.text)) for r in respond(random, jobs, sampling)) > 60
    random.card = policy.card
    found = respond(random, jobs, sampling)
    assert sum(map(len, (r.text for r in found))) > 20_000
    assert not any(trace.search(r.text) for r in found)


@pytest.mark.parametrize(
    ("written", "blocked"),
    [
        ("", ["<warmth>3", "a<warmth>"]),
        ("<", ["warmth>", "<warmth>3", "a<warmth>"]),
        ("< warm th", ["<warmth>3", "a<warmth>", "> "]),
        ("a <warm th", ["<warmth>3", "a<warmth>", ">"]),
        ("<warm", ["th>4", "<warmth>3", "a<warmth>"]),
        ("< ", ["<warmth>3", "a<warmth>"]),
    ],
)
def test_a_marker_is_blocked_however_it_is_cut_into_tokens(written: str, blocked: list[str]) -> None:
    pieces = ["<", "warm", "th", ">", "warmth>", "<warm", "th>4", "<warmth>3", "a<warmth>", "a", " ", "", "> "]
    cuts = {"< warm th": ["<", "warm", "", "th"], "a <warm th": ["a", "<warm", "th"], "< ": ["<", " "]}
    ids = [pieces.index(p) for p in cuts.get(written, [written] if written else [])]
    rule, tail = Markers(["<warmth>"], pieces), ""
    for token in ids:
        tail = rule.tail(tail, token)
    scores = rule.block(torch.zeros(1, len(pieces)), [tail])
    ruled_out = {p for p, score in zip(pieces, scores[0].tolist()) if score == -math.inf}
    completing = {">", "> "} if written in ("< warm th", "a <warm th") else set()
    assert ruled_out == set(blocked) | completing


def ask(policy: Path, **more: Any) -> str:
    options = {"prompt": ("tell me about bees and cows for my song.",), "max_new_tokens": 12}
    return generate_command(GenerateConfig(str(policy), **options | more))


def test_targets_are_printed_side_by_side(trained: Path) -> None:
    shown = ask(
        trained, prompt=("one?", "two?"), target=("verbosity=0", "warmth=high,helpfulness=1", "none"), n=2, seed=4
    )
    heads = [line for line in shown.splitlines() if line.startswith(("> ", "["))]
    both = ["[verbosity=0]"] * 2 + ["[helpfulness=1 warmth=4]"] * 2 + ["[none]"] * 2
    assert heads == ["> one?", *both, "> two?", *both]
    assert shown == ask(
        trained, prompt=("one?", "two?"), target=("verbosity=0", "warmth=high,helpfulness=1", "none"), n=2, seed=4
    )


def test_without_a_target_the_best_one_is_asked_for_of_attributes_with_a_better_end(
    trained: Path, policy: Policy
) -> None:
    assert policy.card is not None
    schema = policy.card.schema
    assert schema is not None
    best = schema.best(policy.card.attributes)
    wanted = {n: level for n, level in best.items() if schema[n].direction}
    assert 0 < len(wanted) < len(best)
    assert ask(trained).splitlines()[1] == f"[{schema.text(wanted)}]"


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("warmht=4", r"unknown attribute 'warmht'; did you mean 'warmth'\?"),
        ("warmth=9", r"warmth=9: no such level; warmth has 0, 1, 2, 3, 4\."),
        ("warmth", r"write NAME=LEVEL"),
        ("warmth=1 warmth=2", r"'warmth' is given twice"),
        ("reward=2", r"unknown attribute 'reward'"),
        (
            "helpfulness=4 warmth=0",
            r"seen together in 0 rows, fewer than 1\. Nearest supported: .* --allow-unsupported",
        ),
    ],
)
def test_targets_that_cannot_be_are_refused(trained: Path, target: str, message: str) -> None:
    with pytest.raises(SteerError, match=message):
        ask(trained, target=(target,))


def test_a_target_outside_the_support_can_be_asked_for_by_flag(trained: Path) -> None:
    assert "[helpfulness=4 warmth=0]" in ask(trained, target=("helpfulness=4 warmth=0",), allow_unsupported=True)


def test_a_model_without_condition_refuses_targets(base: Path) -> None:
    with pytest.raises(SteerError, match=r"was not conditioned on attributes, so it cannot aim at 'warmth=4'\.$"):
        ask(base, target=("warmth=4",))
    assert ask(base).startswith("> tell me")


def test_shards_resume_to_the_same_rows(trained: Path, labels: Path, tmp_path: Path) -> None:
    more = {"input": str(labels), "prompt": (), "output": str(tmp_path), "target": ("best", "verbosity=0"), "n": 2}
    summary = ask(trained, limit=140, max_new_tokens=6, **more)
    whole = (tmp_path / "rows.jsonl").read_bytes()
    parts = sorted((tmp_path / "parts").iterdir())
    assert len(parts) == 2
    for lost in (parts[0], parts[1], tmp_path / "rows.jsonl"):
        lost.unlink()
        (tmp_path / "done.json").unlink()
        assert ask(trained, limit=140, max_new_tokens=6, **more) == summary
        assert (tmp_path / "rows.jsonl").read_bytes() == whole
    rows = read_rows(tmp_path)
    asked = {r["id"]: r for r in read_rows(labels)}
    assert "generate: 140 prompts x 2 targets x 2 in, " in summary
    assert f"{len(rows)} out, {560 - len(rows)} empty skipped, " in summary
    schema = Schema.load(labels / "schema.json")
    for row in rows:
        source = asked[row["id"].removeprefix(f"{tmp_path.name}:").rsplit(":", 1)[0]]
        assert (row["prompt"], row["group"], row["split"]) == (source["prompt"], source["group"], source["split"])
        assert row["asked"] == schema.text(row["target"])
    assert sum(row["asked"] == "verbosity=0" for row in rows) > 200


def test_prompts_come_from_a_text_file_line_by_line(trained: Path, tmp_path: Path) -> None:
    odd = "tell me\u2028about\x85bees."  # lines for Python's splitlines, not for a file
    (tmp_path / "prompts.txt").write_text(f"what is honey?\n\n{odd}\nwhat is honey?\n", encoding="utf-8")
    summary = ask(trained, prompt=(), input=str(tmp_path / "prompts.txt"), output=str(tmp_path / "run"), n=3)
    assert summary.startswith("generate: 2 prompts x 1 targets x 3 in, ")
    rows = read_rows(tmp_path / "run")
    assert {r["prompt"][0]["content"] for r in rows} == {"what is honey?", odd}


def test_a_response_stays_inside_the_models_positions(trained: Path) -> None:
    policy = load_policy(str(trained))
    policy.model.config.max_position_embeddings = 40
    fits, too_long = ({"id": str(n), "prompt": [{"role": "user", "content": "bees " * n}]} for n in (30, 60))
    (found,) = respond(policy, [Request(fits, {})], Sampling(temperature=5.0, max_new_tokens=500))
    assert len(policy.tokenizer(found.text)["input_ids"]) <= 10
    with pytest.raises(SteerError, match=r"row '60': its prompt has 63 tokens, but .* has 40 positions\."):
        respond(policy, [Request(too_long, {})], GREEDY)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -1.0),
        ("temperature", math.nan),
        ("top_p", 0.0),
        ("max_new_tokens", 0),
        ("batch_size", 0),
        ("n", 0),
    ],
)
def test_numbers_that_cannot_be_are_refused(trained: Path, tmp_path: Path, name: str, value: float) -> None:
    with pytest.raises(SteerError, match=rf"^--{name.replace('_', '-')} {value}: wanted .*\.$"):
        ask(trained, output=str(tmp_path / "run"), **{name: value})
    assert not (tmp_path / "run").exists()


def test_the_best_of_several_is_kept(trained: Path, tmp_path: Path) -> None:
    prompts = ("tell me about bees and cows for my song.", "one?")
    asked = {"prompt": prompts, "target": ("none", "verbosity=4"), "max_new_tokens": 30}
    gold = "data_recipes.world_text:Gold"
    for best_of in (1, 6):
        (tmp_path / f"{best_of}.jsonl").write_text("".join(json.dumps({"prompt": p}) + "\n" for p in prompts))
        said = generate_command(
            GenerateConfig(
                str(trained),
                input=str(tmp_path / f"{best_of}.jsonl"),
                output=str(tmp_path / str(best_of)),
                target=asked["target"],  # type: ignore[arg-type]
                n=2,
                best_of=best_of,
                scorer=gold if best_of > 1 else "",
                max_new_tokens=30,
            )
        )
    assert "(each the best of 6)" in said
    schema = load_policy(str(trained)).card.schema  # type: ignore[union-attr]
    assert schema is not None
    reward = rewarder(load_scorer(gold), schema)
    every = [json.loads(line) for line in (tmp_path / "6" / "parts" / "00000.jsonl").read_text().splitlines()]
    scores = reward(every)
    kept = {row["id"] for row in read_rows(tmp_path / "6")}
    best = {every[max(range(i, i + 6), key=scores.__getitem__)]["id"] for i in range(0, len(every), 6)}
    assert len(every) == 2 * 2 * 2 * 6
    assert kept <= best
    assert len(kept) >= len(best) - 2  # a blank one is left out
    assert ask(trained, best_of=3, scorer=gold, target=("none",), n=2).count("\n") >= 2


def test_the_best_of_several_needs_something_to_judge_by(trained: Path, base: Path) -> None:
    more: dict[str, Any]
    for more, told in (
        ({"best_of": 2, "temperature": 0.0}, "greedy responses are all alike"),
        ({"best_of": 2, "scorer": "countable:words"}, "does not score"),
        ({"best_of": 2, "scorer": "human"}, r"nobody rates new responses\..* then --scorer SCORER"),
    ):
        with pytest.raises(SteerError, match=told):
            ask(trained, **more)
    for more in ({"best_of": 2}, {"score": True}):
        with pytest.raises(SteerError, match=r"^--.*: the policy names no scorer\. Name one with --scorer"):
            ask(base, **more)


def test_what_was_obtained_is_shown_beside_the_target(
    trained: Path, labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gold = "data_recipes.world_text:Gold"
    shown = ask(trained, target=("verbosity=0", "none"), score=True, scorer=gold, max_new_tokens=30)
    lines = [line for line in shown.splitlines() if line.startswith("  obtained ")]
    assert len(lines) == 2
    assert re.fullmatch(r"  obtained verbosity=\d( \(asked 0\))?( \w+=\d)+", lines[0])
    assert "asked" not in lines[1]
    more = {"input": str(labels), "prompt": (), "output": str(tmp_path / "run"), "limit": 12, "n": 2}
    said = ask(trained, target=("verbosity=0", "none"), score=True, max_new_tokens=30, **more)
    assert said.startswith("asked for | attribute | the level means | mean score [95 % over prompts] | ")
    assert capsys.readouterr().err.count(f"--score uses {gold}, which labelled the rows that the policy") == 1
    every = read_rows(tmp_path / "run")
    assert all(row["scorer"] == gold for row in every)
    rows = [row for row in every if row["target"]]
    scorer, schema = load_scorer(gold), Schema.load(labels / "schema.json")
    exact = scorer.score(rows, ["verbosity"])[:, 0]
    assert [r["predicted"]["verbosity"] for r in rows] == pytest.approx(exact.tolist(), abs=1e-4)
    assert [r["levels"]["verbosity"] for r in rows] == [schema["verbosity"].level(x) for x in exact]
    prompts = [prompt_key(row) for row in rows]
    met = interval(np.array([row["levels"]["verbosity"] == 0 for row in rows]), prompts)
    shares = f"{met.mean:.0%} [{max(0.0, met.low):.0%}, {min(1.0, met.high):.0%}]"
    assert f"\nverbosity=0 | verbosity | - | {interval(exact, prompts).text()} | {shares} | " in said
    assert [line.split(" | ")[1] for line in said.splitlines() if line.startswith("none | ")] == list(schema.own)
    two = ask(trained, prompt=("one?", "two?"), target=("verbosity=0",), score=True, max_new_tokens=8)
    assert two.splitlines()[-1].startswith("verbosity=0 | verbosity | - | ")


def test_the_nearest_to_the_target_of_several_is_kept(trained: Path, tmp_path: Path) -> None:
    gold = "data_recipes.world_text:Gold"
    (tmp_path / "prompts.txt").write_text("one?\ntell me about bees.\n")
    more = {"input": str(tmp_path / "prompts.txt"), "prompt": (), "output": str(tmp_path / "run"), "seed": 3}
    ask(trained, target=("verbosity=1",), best_of=5, rerank="target", scorer=gold, max_new_tokens=30, **more)
    every = [json.loads(line) for line in (tmp_path / "run" / "parts" / "00000.jsonl").read_text().splitlines()]
    schema = load_policy(str(trained)).card.schema  # type: ignore[union-attr]
    assert schema is not None
    at = schema["verbosity"].position(load_scorer(gold).score(every, ["verbosity"])[:, 0])
    best = [min(range(i, i + 5), key=lambda j: abs(at[j] - 1)) for i in (0, 5)]
    assert [r["id"] for r in read_rows(tmp_path / "run")] == [every[i]["id"] for i in best]
    with pytest.raises(SteerError, match=r"does not score verbosity of the target\."):
        ask(trained, target=("verbosity=1",), best_of=2, rerank="target", scorer="countable:words")


def test_guidance_reaches_the_command(trained: Path) -> None:
    plain, strong = (ask(trained, target=("verbosity=0",), guidance=s, temperature=0.0) for s in (1.0, 40.0))
    assert plain == ask(trained, target=("verbosity=0",), temperature=0.0)
    assert ask(trained, target=("none",), guidance=40.0, temperature=0.0) == ask(
        trained, target=("none",), temperature=0.0
    )
    assert strong != plain


def test_a_stream_prints_what_is_shown_otherwise(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked: dict[str, Any] = {"target": ("verbosity=0", "none"), "n": 2, "seed": 3, "top_p": 0.9}
    shown = ask(trained, **asked).splitlines()[1:]
    assert ask(trained, stream=True, **asked) == "generate: 4 responses."
    printed = capsys.readouterr().out.splitlines()
    aims = [" [verbosity=0]"] * 2 + [""] * 2
    assert printed[::2] == [f"> tell me about bees and cows for my song.{aim}" for aim in aims]
    assert printed[1::2] == [line for line in shown if not line.startswith("[")]
    with pytest.raises(SteerError, match="--stream: only prints"):
        ask(trained, stream=True, score=True)


def test_a_model_whose_state_cannot_be_shared_has_no_stream(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steer.generation.command.shareable", lambda _: False)
    with pytest.raises(SteerError, match=r"keeps more than keys and values, so it has no --stream\.$"):
        ask(base, stream=True)


def test_a_prompt_that_the_chat_template_refuses_is_named(base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "model")
    (tmp_path / "model" / "chat_template.jinja").write_text("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(SteerError, match=r"^row 'prompt:0': the model's chat template refuses .*roles must alternate"):
        ask(tmp_path / "model")


def test_the_command_is_a_doorway_on_generate(trained: Path, policy: Policy, labels: Path, tmp_path: Path) -> None:
    gold = "data_recipes.world_text:Gold"
    more: Any = {"n": 2, "best_of": 2, "scorer": gold, "score": True, "max_new_tokens": 12, "split": "test", "limit": 6}
    target = ("best", "verbosity=0")
    summary = ask(trained, prompt=(), input=str(labels), output=str(tmp_path / "run"), target=target, **more)
    rows = generate(policy, read_rows(labels), targets=target, folder=tmp_path / "api" / "run", **more)
    assert len(rows) == 6 * 2 * 2
    good = [row for row in rows if row["response"].strip()]
    assert read_rows(tmp_path / "run") == read_rows(tmp_path / "api" / "run") == read_rows(good)
    assert (
        f"6 prompts x 2 targets x 2 in, {len(good)} out (each the best of 2), {len(rows) - len(good)} empty" in summary
    )
    shown = ask(trained, prompt=("one?", "two?"), target=target, seed=4)
    printed = generate(str(trained), ["one?", "two?"], targets=target, seed=4, max_new_tokens=12)
    assert side_by_side(printed, policy.card.schema if policy.card else None) == shown


def test_generate_takes_texts_conversations_rows_and_files(policy: Policy, tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "one?"}]
    asked: Any = {"temperature": 0.0, "max_new_tokens": 8, "targets": "verbosity=0"}
    (tmp_path / "prompts.txt").write_text("one?\n")
    sources: list[Any] = ["one?", ["one?"], turns, [turns], [{"prompt": "one?"}], tmp_path / "prompts.txt"]
    responses = [[row["response"] for row in generate(policy, source, **asked)] for source in sources]
    assert len(responses[0]) == 1
    assert all(response == responses[0] for response in responses)
    assert generate(policy, [], **asked) == []
    assert policy.generate("one?", target="verbosity=0", temperature=0.0, max_new_tokens=8) == responses[0][0]
    assert len(policy.generate("one?", target=("verbosity=0", "none"), n=2, max_new_tokens=8)) == 4
    with pytest.raises(SteerError, match="prompt 0: has half a surrogate pair"):
        generate(policy, "bad \ud800 text")
    with pytest.raises(SteerError, match="prompts: NoneType is none"):
        generate(policy, None)  # type: ignore[arg-type]
    with pytest.raises(SteerError, match="prompt 0: is empty"):
        generate(policy, " ", **asked)
    for settings, message in (
        ({"temprature": 1.0}, "unknown setting 'temprature'; did you mean 'temperature'"),
        ({"engine": "vllm"}, "loads the policy by itself. Give its name or folder"),
        ({"top_p": 0.0}, "--top-p 0.0: wanted"),
    ):
        with pytest.raises(SteerError, match=message):
            generate(policy, "one?", **settings)


def test_generate_resumes_from_its_folder(policy: Policy, tmp_path: Path) -> None:
    asked: Any = {"max_new_tokens": 8, "n": 3, "targets": ("verbosity=0", "none")}
    rows = generate(policy, "one?", folder=tmp_path, **asked)
    part = tmp_path / "parts" / "00000.jsonl"
    part.write_text(part.read_text().replace(rows[0]["response"], "drawn before"))
    assert generate(policy, "one?", folder=tmp_path, **asked)[0]["response"] == "drawn before"
    for prompts, more, changed in (("two?", {}, r"inputs\.\w+"), ("one?", {"seed": 1}, "seed")):
        with pytest.raises(SteerError, match=rf"holds a run with other settings \({changed}\)"):
            generate(policy, prompts, folder=tmp_path, **asked, **more)


def test_an_answer_that_only_calls_a_tool_is_counted_as_one() -> None:
    settings = SimpleNamespace(n=1, best_of=1, max_new_tokens=8, score=False)
    rows = [{"response": "", "tool_calls": [{}], "finished": True}, {"response": " ", "finished": True}]
    generation: Any = SimpleNamespace(settings=settings, requests=[0, 0])
    written = Written.of(SimpleNamespace(leaks=lambda text: False), lambda: rows)  # type: ignore[arg-type]
    said = summary_of(generation, 2, written)
    assert "1 out, 1 empty skipped, 0 cut off" in said
