"""Methods whose condition is no obtained level: directional, reward-augmented and steerlm2; and their likelihood."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from steer.conditioning.command import targets_command
from steer.config.conditioning import TargetsConfig
from steer.config.generation import GenerateConfig
from steer.config.labelling import LabelConfig
from steer.config.training import TrainConfig
from steer.errors import SteerError
from steer.generation.command import generate_command
from steer.labelling.command import label_command
from steer.labelling.likelihood import level_probability, log_likelihood
from steer.methods import directional, reward_augmented, steerlm2
from steer.methods.base import Candidates
from steer.methods.groups import pairs
from steer.models.policy import load_policy
from steer.models.tokenization import Tokens
from steer.rows import read_rows
from steer.rows.labelled import Labelled
from steer.rows.schema import Attribute, Schema
from steer.run_folder import read_json
from steer.training.batches import Conditioning, Plan
from steer.training.command import train_command
from steer.training.prepare import agreeing, chosen, conditioned, grouped
from steer.training.settings import TrainSettings

NAMES = ("helpfulness", "warmth")
GRID = (0.5, 1.5, 2.5, 3.5)
SCHEMA = Schema(
    (
        Attribute("helpfulness", 0.0, 4.0, 1, edges=GRID, shown=tuple("01234")),
        Attribute("warmth", 0.0, 4.0, -1, edges=GRID, shown=tuple("01234")),
        Attribute("words", 0.0, 9.0, 0, 0.0),
    )
)


def row(name: str, question: str = "q", **more: Any) -> dict[str, Any]:
    return {"id": name, "prompt": [{"role": "user", "content": question}], "response": name, **more}


def test_level_probabilities_are_the_mass_of_a_beta_distribution() -> None:
    a = SCHEMA["helpfulness"]
    for score in (-1.0, 0.0, 1.3, 4.0):
        assert sum(level_probability(a, score, level) for level in range(5)) == pytest.approx(1.0)
    # Beta(12, 12): 11!11!/23! in front, integrated over a bin by the midpoint rule
    front = math.factorial(23) / math.factorial(11) ** 2
    xs = [(3 / 8 + (i + 0.5) / 4000) for i in range(1000)]
    expected = front * math.fsum((x * (1 - x)) ** 11 for x in xs) / 4000
    assert level_probability(a, 2.0, 2) == pytest.approx(expected, rel=1e-6)
    assert max(range(5), key=lambda level: level_probability(a, 3.2, level)) == 3


def test_attributes_count_as_independent_and_an_unknown_one_leaves_nothing() -> None:
    found = log_likelihood(SCHEMA, {"helpfulness": 2.0, "warmth": 1.0}, {"helpfulness": 2, "warmth": 3})
    each = [level_probability(SCHEMA["warmth"], s, level) for s, level in ((2.0, 2), (1.0, 3))]
    assert found == pytest.approx(sum(map(math.log, each)))
    assert math.isnan(log_likelihood(SCHEMA, {"helpfulness": 2.0, "warmth": None}, {"warmth": 3}))
    assert log_likelihood(SCHEMA, {"helpfulness": 0.0}, {"helpfulness": 4}) == pytest.approx(math.log(1e-30), rel=0.5)


def test_steerlm2_is_the_gradient_of_the_divergence() -> None:
    texts = [[-1.0, -2.0], [-0.5], [-3.0, -1.0]]  # log Q
    drawn = [[-1.5, -1.0], [-0.7], [-2.0, -2.5]]  # log Q'
    ref, likely = [-4.0, -1.0, -3.0], [0.5, 0.2, 0.9]
    logps, old = (torch.tensor([[t + [9.0] * (2 - len(t)) for t in x]], dtype=torch.float64) for x in (texts, drawn))
    mask = torch.tensor([[[True, len(t) == 2] for t in texts]])
    numbers = (torch.tensor([x], dtype=torch.float64) for x in ([0.0] * 3, ref, list(map(math.log, likely))))
    c = Candidates(mask, *numbers, old)
    lp, q = [sum(t) for t in texts], [sum(t) for t in drawn]

    def softmax(xs: list[float]) -> list[float]:
        whole = math.fsum(map(math.exp, xs))
        return [math.exp(x) / whole for x in xs]

    for tempered, sizes in ((False, [1, 1, 1]), (True, [2, 1, 2])):
        w = softmax([math.log(p) + (r - d) / n for p, r, d, n in zip(likely, ref, q, sizes)])
        b = softmax([x - y for x, y in zip(lp, q)])
        settings = steerlm2.Settings(tempered)
        weighed = steerlm2.weigh(c, settings)
        assert weighed.weight is not None
        assert weighed.weight[0].tolist() == pytest.approx(w)
        free = logps.clone().requires_grad_()
        [term] = steerlm2.loss(free, weighed, settings)
        assert float(term.detach()) == pytest.approx(sum(x * math.log(x / y) for x, y in zip(w, b)))
        (gradient,) = torch.autograd.grad(term, free)
        assert gradient[0, :, 0].tolist() == pytest.approx([y - x for x, y in zip(w, b)])


def test_steerlm2_has_no_loss_where_the_policy_is_what_it_aims_at() -> None:
    """A policy that gave the wanted response a share of .01 had a loss of -76, and one that gave it .9 one of 0."""
    mask, w = torch.ones(1, 2, 1, dtype=torch.bool), torch.tensor([[0.9, 0.1]])
    c = Candidates(mask, torch.zeros(1, 2), weight=w, old=torch.full((1, 2, 1), -3.0))
    found = [
        float(steerlm2.loss(torch.tensor([[[share], [1 - share]]]).log(), c, steerlm2.Settings()))
        for share in (0.01, 0.5, 0.9, 0.99)
    ]
    assert found[2] == pytest.approx(0.0, abs=1e-6)
    assert found[0] > found[1] > found[2] < found[3]
    assert found[0] == pytest.approx(0.9 * math.log(0.9 / 0.01) + 0.1 * math.log(0.1 / 0.99))


def test_steerlm2_weighs_responses_of_any_likelihood() -> None:
    """One that misses three attributes wholly is far below what a float can hold as a share."""
    mask = torch.ones(1, 2, 1, dtype=torch.bool)
    c = Candidates(mask, torch.zeros(1, 2), torch.tensor([[-80.0, 0.0]]), torch.tensor([[0.0, -150.0]]), mask * 0.0)
    weight = steerlm2.weigh(c, steerlm2.Settings()).weight
    assert weight is not None
    assert weight[0].tolist() == pytest.approx([1.0, math.exp(-70)])


def test_steerlm2_groups_what_was_drawn_for_a_prompt_at_one_target() -> None:
    low, high = {"warmth": 0}, {"warmth": 4}
    how = {"temperature": 1.0, "top_p": 1.0}
    rows = [
        *(row(f"a{i}", target=high, levels={"warmth": 2}, likelihood=float(-i), **how) for i in range(3)),
        *(row(f"b{i}", target=low, levels={"warmth": 2}, likelihood=-1.0, **how) for i in range(2)),
        row("alone", "other", target=high, levels={"warmth": 4}, likelihood=-1.0, **how),
        row("unscored", target=high, levels={"warmth": 4}, likelihood=None),
        row("unknown", target=high, levels={"warmth": 4}, likelihood=math.nan, **how),
        row("log", levels={"warmth": 4}, likelihood=-1.0),
    ]
    first, second = steerlm2.groups(rows, steerlm2.Settings())
    assert [r["id"] for r in first.rows] == ["a0", "a1", "a2"]
    assert [r["levels"] for r in (*first.rows, *second.rows)] == [high] * 3 + [low] * 2
    assert first.weights == pytest.approx([0.0, -1.0, -2.0])
    assert rows[0]["levels"] == {"warmth": 2}
    with pytest.raises(SteerError, match=r"no prompt has two responses to one target \(1 of 2 rows"):
        steerlm2.groups(rows[5:7], steerlm2.Settings())


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({}, "has no temperature and no top_p"),
        ({"temperature": 1.0}, "has no top_p"),
        ({"temperature": 0.7, "top_p": 1.0}, "drawn at temperature 0.7"),
        ({"temperature": 1.0, "top_p": 0.9}, "drawn at top_p 0.9"),
        ({"temperature": 1.0, "top_p": 1.0, "guidance": 2.0}, "drawn at guidance 2"),
        ({"temperature": 1.0, "top_p": 1.0, "best_of": 4}, "drawn at best_of 4"),
        ({"temperature": 1.0, "top_p": 1.0, "top_k": 1}, "drawn at top_k 1"),
        ({"temperature": 1.0, "top_p": 1.0, "min_p": 0.1}, "drawn at min_p 0.1"),
        ({"temperature": 1.0, "top_p": 1.0, "repetition_penalty": 1.1}, "repetition_penalty 1.1.* --sampling own"),
    ],
)
def test_steerlm2_weighs_only_what_the_policy_itself_drew(how: dict[str, float], told: str) -> None:
    """At T = .7 and K = 10 the weights were .44 from the target, at T = 1 .27: log Q' is another one's."""
    rows = [row(f"a{i}", target={"warmth": 4}, levels={"warmth": 2}, likelihood=-1.0, **how) for i in range(2)]
    with pytest.raises(SteerError, match=told):
        steerlm2.groups(rows, steerlm2.Settings())


def test_rows_say_how_they_were_drawn(base: Path, drawn: tuple[Path, Path], labels: Path, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"input": str(labels), "limit": 2, "max_new_tokens": 8, "target": ("none",)}
    generate_command(GenerateConfig(str(base), output=str(tmp_path / "plain"), temperature=0.7, top_p=0.9, **asked))
    assert {(r["temperature"], r["top_p"]) for r in read_rows(tmp_path / "plain")} == {(0.7, 0.9)}
    generate_command(GenerateConfig(str(base), output=str(tmp_path / "cut"), top_k=5, min_p=0.1, **asked))
    assert {(r["top_k"], r["min_p"]) for r in read_rows(tmp_path / "cut")} == {(5, 0.1)}
    best = {"sampling": "own", "best_of": 2, "scorer": "data_recipes.world_text:Gold", "score": True}
    generate_command(GenerateConfig(str(drawn[0]), output=str(tmp_path / "best"), **asked, **best))
    found = read_rows(tmp_path / "best")
    assert {(r["temperature"], r["top_p"], r["best_of"]) for r in found} == {(1.0, 1.0, 2)}


def test_a_goal_turns_the_pair() -> None:
    rows = [row("good", reward=1.0, levels={"warmth": 4}), row("bad", reward=0.0, levels={"warmth": 1})]
    first, second = reward_augmented.groups(rows, reward_augmented.Settings())
    assert [r["id"] for r in first.rows] == ["good", "bad"]
    assert [r["levels"] for r in first.rows] == [{"warmth": 4}] * 2
    assert [r["id"] for r in second.rows] == ["bad", "good"]
    assert [r["levels"] for r in second.rows] == [{"warmth": 1}] * 2


def test_pairs_whose_goals_read_alike_are_left_out() -> None:
    levels = {"a": (0, 3), "b": (1, 3), "c": (1, 3)}  # of helpfulness and warmth
    other = {"a": (4, 3), "b": (1, 3), "c": (0, 0)}
    rows = [
        row(f"{name}{i}", name, reward=float(1 - i), levels={**dict(zip(NAMES, each[name])), "reward": 4 - 4 * i})
        for name in levels
        for i, each in enumerate((levels, other))
    ]
    groups = reward_augmented.groups(rows, reward_augmented.Settings())
    # The reward differs in every pair, but no condition shows it.
    for names, kept in ((NAMES, {"a", "c"}), (("warmth",), {"c"}), (("helpfulness",), {"a", "c"})):
        found = agreeing(groups, Conditioning(SCHEMA, names))
        assert {g.rows[0]["id"][0] for g in found} == kept
        assert len(found) == 2 * len(kept)
    near = replace(SCHEMA["helpfulness"], centres=(0.251, 0.254, 2.0, 3.0, 4.0))  # 0.25 and 0.25
    returns = Conditioning(Schema((near, *SCHEMA.attributes[1:])), NAMES[:1], "decision-transformer")
    assert {g.rows[0]["id"][0] for g in agreeing(groups, returns)} == {"a"}
    with pytest.raises(SteerError, match=r"the conditions of every pair read alike \(warmth\)\. Name more with --attr"):
        agreeing(groups[:4], Conditioning(SCHEMA, ("warmth",)))


def test_training_and_held_out_rows_lose_what_reads_alike(labels: Path, base: Path, tmp_path: Path) -> None:
    how: dict[str, Any] = {"method": "reward-augmented", "attribute": ("verbosity",), "dry_run": True, "max_steps": 1}
    every = pairs([r for r in read_rows(labels) if r["split"] == "train"], "best-random")
    apart = [g for g in every if g.rows[0]["levels"]["verbosity"] != g.rows[1]["levels"]["verbosity"]]
    assert 0 < len(apart) < len(every)
    said = train_command(TrainConfig(str(labels), str(base), str(tmp_path / "run"), **how))
    assert f"rows        {2 * len(apart)} groups to train on" in said
    rows = [r if r["split"] == "train" else {**r, "levels": {**r["levels"], "verbosity": 1}} for r in read_rows(labels)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    shutil.copy(labels / "schema.json", tmp_path)
    with pytest.raises(
        SteerError, match=r"^--eval-steps: the held-out rows of .*: reward-augmented trains on none of them"
    ):
        train_command(TrainConfig(str(tmp_path / "rows.jsonl"), str(base), str(tmp_path / "run"), eval_steps=1, **how))


def test_no_reversed_pair_stands_behind_what_is_left_of_a_condition(labels: Path, base: Path, tmp_path: Path) -> None:
    """The worse response wins under its own levels only: no attribute and no whole condition is dropped."""
    config = TrainConfig(
        str(labels), str(base), str(tmp_path), "reward-augmented", attribute=("verbosity",), template="tags"
    )
    method, settings = chosen(config.method, ())
    made = conditioned(Labelled.of(config.rows), method, config)
    rows = [r for r in read_rows(labels) if r["split"] == "train"]
    groups = agreeing(method.groups(rows, settings), made)  # type: ignore[arg-type]  # it is conditioned
    plan = Plan(groups, Tokens(rows, load_policy(str(base)).tokenizer), made, 8, 4096, 0)
    for epoch in range(20):
        for i, group in enumerate(groups[:20]):
            better, worse = plan.sequences(epoch, i)
            own = plan.tokens.sequence(group.rows[0], f"<verbosity>{group.rows[0]['levels']['verbosity']}\n")
            assert better.prefix == worse.prefix == own.prefix


@pytest.mark.parametrize("method", [reward_augmented, steerlm2])
def test_no_part_of_a_condition_that_decides_the_loss_is_dropped(method: Any) -> None:
    warmth = Attribute("warmth", 0, 4, edges=(2.0,), shown=("0", "1"), centres=(1.0, 3.0), counts=(1, 1))
    made = conditioned(Labelled([], Schema((warmth,))), method.METHOD, TrainSettings(template="tags"))
    assert made is not None
    assert (made.attribute_dropout, made.condition_dropout) == (0.0, 0.0)


def test_the_best_response_under_each_direction_stands_behind_its_weights() -> None:
    scores = {"kind": (1.0, 0.0, 1.0), "clever": (4.0, 2.0, 5.0), "neither": (0.0, 2.0, 9.0)}  # other scales
    rows = [
        row(f"{n}{i}", f"q{i}", reward=s[0], levels={"warmth": 0}, predicted=dict(zip((*NAMES, "words"), s)))
        for i in range(60)
        for n, s in scores.items()
    ]
    made, schema = directional.weights(rows, SCHEMA, directional.Settings(directions=3))
    assert schema.own == NAMES  # words have no better end
    assert all(a.direction == 1 for a in schema.attributes)
    assert 60 + 150 < len(made) <= 60 + 180
    table = np.array([[s[0], -s[1]] for s in scores.values()])
    z = (table - table.mean(0)) / table.std(0)
    for r in made:
        weights = np.array([r["levels"][n] for n in NAMES])
        assert r["response"].rstrip("0123456789") == list(scores)[int(np.argmax(z @ weights))]
    assert sum(schema.cells.values()) == len(made)
    assert {r["levels"]["helpfulness"] for r in made} == set(range(5))
    assert schema.cells[4, 4] >= 60, "equal weights, of every prompt"
    again, _ = directional.weights(rows, SCHEMA, directional.Settings(directions=3))
    assert again == made
    neither = SCHEMA.turned(dict.fromkeys(SCHEMA.own, (0, 0.0)))
    with pytest.raises(SteerError, match=r"^no attribute has a better end"):
        directional.weights(rows, neither, directional.Settings())
    with pytest.raises(SteerError, match="1 of 1 rows have scores of all of 2 attributes with a better end"):
        directional.weights(rows[:1], SCHEMA, directional.Settings())
    with pytest.raises(SteerError, match=r'warmth: no two scores differ\..* "steer label ROWS --neither warmth"'):
        directional.weights(
            [r | {"predicted": {**r["predicted"], "warmth": 1.0}} for r in rows], SCHEMA, directional.Settings()
        )


def test_equal_weights_are_the_best_and_others_are_supported_as_the_rarest_of_them(tmp_path: Path) -> None:
    """Five weights for each of six attributes are 15,625 directions, of which rows see few, and hardly one five times.

    `best` was some other direction, and equal weights were refused.
    """
    names = tuple("abcdef")
    attributes = (Attribute(n, 0.0, 4.0, 1, edges=GRID, shown=tuple("01234")) for n in names)
    rng = np.random.default_rng(0)
    rows = [
        row(
            f"{i} {j}",
            f"q{i}",
            reward=float(j),
            levels=dict.fromkeys(names, 0),
            predicted=dict(zip(names, rng.random(6))),
        )
        for i in range(20)
        for j in range(2)
    ]
    _, schema = directional.weights(rows, Schema(tuple(attributes)), directional.Settings())
    assert schema.best(names) == schema.unasked(names) == dict.fromkeys(names, 4)
    assert schema.supported(names) == {(4,) * 6: 20}
    for asked in (dict.fromkeys(names, 1), dict(zip(names, (0, 1, 2, 3, 4, 0)))):
        rarest = min(schema["abcdef"[i]].counts[level] for i, level in enumerate(asked.values()))
        assert schema.count(asked) == rarest >= 5
        schema.check(asked)
    schema.save(tmp_path / "schema.json")
    assert Schema.load(tmp_path / "schema.json") == schema
    joint = replace(schema, independent=False)
    assert "independent" not in joint.to_json()
    with pytest.raises(SteerError, match="seen together in 0 rows"):
        joint.check(dict.fromkeys(names, 1))
    with pytest.raises(SteerError, match=r"f=1: seen together in 0 rows.* Nearest supported: a=4"):
        replace(schema, cells={(4,) * 6: 20}).check(dict.fromkeys(names, 1))


def test_weights_say_in_words_that_the_better_end_matters(labels: Path) -> None:
    """The weight of what is better when low read "Warmth: very high, 4 of 4."."""
    labelled = Labelled.of(labels)
    low = replace(labelled, schema=labelled.schema.turned({"hedging": (-1, 1.0)}))
    options = TrainSettings(template="words")
    method, settings = chosen("directional", ())
    made = conditioned(low, method, options)
    _, _, made = grouped(low.rows, method, settings, made, "here")
    assert made is not None
    assert (
        made.text({"helpfulness": 4, "hedging": 4, "warmth": 0})
        .strip()
        .endswith(
            "High helpfulness matters very much, 4 of 4. Warmth does not matter. Low hedging matters very much, 4 of 4."
        )
    )
    with pytest.raises(SteerError, match="--phrase says how levels are asked for"):
        conditioned(low, method, replace(options, phrase=("warmth=be warm.",)))


def test_directional_asks_for_weights(labels: Path, base: Path, tmp_path: Path) -> None:
    train_command(TrainConfig(str(labels), str(base), str(tmp_path / "policy"), "directional", max_steps=2))
    card = load_policy(str(tmp_path / "policy")).card
    assert card is not None
    assert "verbosity" not in card.attributes
    ask = "warmth=4 hedging=0"
    told = generate_command(GenerateConfig(str(tmp_path / "policy"), prompt=("hi",), target=(ask,), max_new_tokens=4))
    assert ask in told
    said = targets_command(TargetsConfig(str(tmp_path / "policy")))
    assert "any combination of levels outside brackets can be asked for" in said
    assert said.endswith("best: " + " ".join(f"{name}=4" for name in card.attributes))


@pytest.fixture(scope="module")
def drawn(labels: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A conditional policy, and what it drew at its best target, labelled."""
    folder = tmp_path_factory.mktemp("drawn")
    policy = folder / "policy"
    train_command(TrainConfig(str(labels), str(base), str(policy), max_steps=4, learning_rate=3e-3, lora_r=4))
    generate_command(
        GenerateConfig(
            str(policy),
            input=str(labels),
            output=str(folder / "more"),
            n=3,
            limit=12,
            max_new_tokens=24,
            sampling="own",
        )
    )
    scorer, schema = "data_recipes.world_text:Gold", str(labels / "schema.json")
    label_command(LabelConfig(str(folder / "more"), str(folder / "labels"), scorer=scorer, schema=schema, held_out=0.0))
    return policy, folder / "labels"


def test_steerlm2_starts_where_its_responses_come_from(drawn: tuple[Path, Path], base: Path, tmp_path: Path) -> None:
    policy, rows = drawn
    likely = [r["likelihood"] for r in read_rows(rows)]
    assert len(likely) == 36
    assert all(x <= 0 for x in likely)
    how: dict[str, Any] = {"method": "steerlm2", "max_steps": 2, "logging_steps": 1, "lora_r": 4, "held_out": 0.0}
    with pytest.raises(SteerError, match="steerlm2: needs --init, the policy that drew"):
        train_command(TrainConfig(str(rows), str(base), str(tmp_path / "without"), **how))
    train_command(TrainConfig(str(rows), str(base), str(tmp_path / "run"), init=str(policy), **how))
    first, second = (json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    # At the start the policy is the one that drew, so b is uniform, and the loss is not what a fresh adapter gives.
    assert math.isfinite(first["loss"])
    assert second["loss"] != first["loss"]
    facts = read_json(tmp_path / "run" / "done.json")
    assert 1 / 3 <= facts["ess"] < 1
    assert "effective sample size" in facts["summary"]


def test_init_wants_the_same_base_rank_and_conditions(
    drawn: tuple[Path, Path], labels: Path, base: Path, tiny: Path, tmp_path: Path
) -> None:
    policy, _ = drawn
    for wrong, message in (
        ({"model": str(tiny), "lora_r": 4}, "has another base, adapter or template"),
        ({"lora_r": 8}, "its adapter has lora_r 4, this run lora_r 8"),
        (
            {"lora_r": 4, "lora_alpha": 8, "use_rslora": True},
            "has lora_alpha 64, use_rslora False, this run lora_alpha 8, ",
        ),
        ({"lora_r": 4, "attribute": ("warmth",)}, "reads conditions of helpfulness, correctness"),
    ):
        how: dict[str, Any] = {"model": str(base), "init": str(policy), "max_steps": 1} | wrong
        with pytest.raises(SteerError, match=message):
            train_command(TrainConfig(str(labels), output=str(tmp_path / "run"), **how))
        assert not (tmp_path / "run").exists()


def test_training_goes_on_from_the_adapter_that_init_names(
    drawn: tuple[Path, Path], labels: Path, base: Path, tmp_path: Path
) -> None:
    policy, _ = drawn
    how: dict[str, Any] = {"max_steps": 1, "learning_rate": 1e-12, "lora_r": 4, "init": str(policy)}
    train_command(TrainConfig(str(labels), str(base), str(tmp_path / "run"), **how))
    ours, theirs = (
        {n: p for n, p in load_policy(str(f)).model.named_parameters() if "lora_" in n}
        for f in (tmp_path / "run", policy)
    )
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, atol=1e-9, rtol=0)
