"""What a round hands to training and to the guards; nothing is trained or generated here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_recipes.world_text import Gold
from steer.config.iteration import IterateConfig
from steer.config.training import TrainConfig
from steer.generation import drawing
from steer.iteration import round, rounds, watch
from steer.iteration.guards import Figures, outrun
from steer.iteration.iterate import training_of
from steer.iteration.pool import mixed
from steer.iteration.round import run_round
from steer.iteration.rounds import Rounds
from steer.iteration.watch import figures, measured
from steer.labelling.scorer import Scorer, load_scorer
from steer.models.policy import load_policy
from steer.parts import Workers
from steer.rows import Row, write_rows
from steer.rows.labelled import Labelled
from steer.run_folder import write_json

GOLD = "data_recipes.world_text:Gold"


def config(labels: Path, tiny: Path, output: Path, **more: Any) -> IterateConfig:
    return IterateConfig(str(labels), str(tiny), GOLD, str(output), method="mle", **more)


def planned(how: IterateConfig, annotator: Scorer | None = None) -> Rounds:
    gold = load_scorer(GOLD)
    return Rounds(
        rows=how.rows,
        model=how.model,
        scorer=GOLD,
        root=Path(how.output),
        settings=how,
        training=training_of(how.rows, how.model, "", how),
        schema=Labelled.without_rows(how.rows).schema,
        scorers={"scorer": gold, "gold": gold} | ({"annotator": annotator} if annotator else {}),
        key="key",
    )


def training_rows(config: TrainConfig) -> list[Row]:
    return Labelled.of(config.rows).training(config.held_out, config.seed, config.limit)


@pytest.mark.parametrize("given", ["policy", "train"])
def test_rounds_start_from_the_base_and_follow_from_the_seed_of_the_loop(
    given: str, labels: Path, tiny: Path, tmp_path: Path
) -> None:
    (tmp_path / "steer.json").write_text("{}")
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"method": "mle", "init": "another", "seed": 3, "max_steps": 7}))
    where = tmp_path if given == "policy" else file
    how = config(labels, tiny, tmp_path / "out", seed=5, **{given: str(where)})
    settings = training_of(how.rows, how.model, how.policy, how)
    assert (settings.init, settings.seed, settings.max_steps) == ("", 5, 7)


def test_a_policy_that_others_draw_by_is_loaded_here_once_they_have_drawn(
    labels: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []

    def loading(who: str, whole: Any) -> Any:
        return lambda *args, device="", **more: events.append(f"{who} {device}") or whole(*args, device=device, **more)

    filled = drawing.fill

    def fill(parts: Any, items: Any, start: Any, workers: Workers, *rest: Any) -> None:
        events.append(f"{workers.number} draw")
        filled(parts, items, start, Workers(min(1, workers.number)), *rest)

    monkeypatch.setattr("steer.iteration.rounds.load_policy", loading("policy", load_policy))
    monkeypatch.setattr("steer.evaluation.drawn.load_policy", loading("base", load_policy))
    monkeypatch.setattr("steer.generation.drawing.fill", fill)
    for number in (1, 2):
        how = config(labels, tiny, tmp_path / str(number), watch=4, max_new_tokens=8, num_proc=number, shard_size=2)
        plan = planned(how)
        measured(plan, 0, {"proxy": plan.judge(plan.scorers["scorer"])})
    one, two = ["policy ", "policy meta", "base ", "1 draw"], ["policy meta"] * 2
    assert events == [*one, *two, "2 draw", "policy ", "base ", "0 draw"]
    one, two = ((folder / "answers.jsonl") for folder in sorted(tmp_path.glob("*/round-0-*/held-out")))
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize(("pool", "logged"), [("all", 20), ("rounds", 0)])
def test_a_limit_of_training_is_one_of_the_logs_and_leaves_out_nothing_fresh(
    pool: str, logged: int, labels: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "train.json"
    file.write_text(json.dumps({"limit": 20}))
    plan = planned(config(labels, tiny, tmp_path / "out", train=str(file), pool=pool, n=2))
    trained: list[list[str]] = []

    def train(launch: str, settings: TrainConfig) -> str:
        trained.append([row["id"] for row in training_rows(settings)])
        return ""

    monkeypatch.setattr(round, "train_by", train)
    fresh = [{**row, "id": f"fresh:{row['id']}"} for row in plan.logs[:30]]
    for number, part in ((1, fresh[:25]), (2, fresh[25:])):
        write_rows(part, plan.folder(number) / "fresh.jsonl")
        run_round(plan, number)
    first, ids = [row["id"] for row in plan.logs[:logged]], [row["id"] for row in fresh]
    assert trained == [first + ids[:25], first + ids]


def test_a_mix_is_a_share_of_the_rows_within_the_limit(labels: Path) -> None:
    train, every = ([r["id"] for r in mixed(labels, 0.5, 0, n) if r["split"] == "train"] for n in (100, 0))
    within = {r["id"] for r in training_rows(TrainConfig(str(labels), "", "", limit=100))}
    assert train == [name for name in every if name in within]
    assert len(train) < len(every)


def test_a_refreshed_proxy_is_compared_with_itself() -> None:
    gold, now, rise = [0.0] * 5, [1.0, 1.2, 0.8, 1.1, 0.9], [1.0, 0.9, 1.1, 1.2, 0.8]
    start = Figures([0.0] * 5, gold)
    assert outrun([start, Figures(now, gold)], 0.05)
    assert not outrun([start, Figures(now, gold, earlier=[now])], 0.05), "the last scorer sees no rise"
    risen = Figures(now, gold, earlier=[np.subtract(now, rise).tolist()])
    assert outrun([Figures(now, gold), risen], 0.05), "the last scorer sees one, which two scorers would not"


class Reversed:
    """What the exact scorer likes, disliked; standardised, its rewards are minus those of that one."""

    attributes = Gold.attributes

    def score(self, rows: list[Row]) -> Any:
        return -Gold().score(rows)


@pytest.mark.parametrize("annotated", [True, False])
def test_the_scorer_of_a_round_sees_the_answers_of_the_rounds_before(
    annotated: bool, labels: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gold, policy = load_scorer(GOLD), load_policy(str(tiny))
    plan = planned(config(labels, tiny, tmp_path / "out", watch=5), gold if annotated else None)

    def drawn(policy: Any, requests: Any, sampling: Any, folder: Path, *_: Any, **how: Any) -> list[Row]:
        others = plan.logs if folder.parent == plan.folder(1) else plan.logs[5:]
        rows = [{**r.row, "response": other["response"], "finished": True} for r, other in zip(requests, others)]
        write_rows(rows, folder / "answers.jsonl")
        return rows

    monkeypatch.setattr(rounds, "load_policy", lambda name, **how: policy)
    monkeypatch.setattr(rounds, "load_scorer", lambda folder: Scorer("reversed", Gold.attributes, Reversed()))
    monkeypatch.setattr(watch, "drawn", drawn)
    write_rows(plan.logs, plan.folder(1) / "rows" / "rows.jsonl")
    write_json(plan.folder(1) / "policy" / "done.json", {"steps": 1})
    judges = {name: plan.judge(gold) for name in ("proxy", "gold")}
    before, now = (figures(measured(plan, number, judges)) for number in (0, 1))
    assert not before.earlier
    assert before.proxy != now.proxy
    if annotated:
        assert now.gold == pytest.approx([-x for x in now.proxy])
        assert np.array(now.earlier) == pytest.approx(-np.array([before.proxy]))
    else:
        assert not now.earlier
