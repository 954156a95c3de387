"""Figures of a round: rewards, KL and texture of its policy's answers to held-out prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from steer.conditioning.condition import leaks
from steer.conditioning.targets import Target
from steer.evaluation.diversity import diversity, leaked
from steer.evaluation.drawn import Reference, drawn
from steer.evaluation.statistics import interval
from steer.evaluation.systems import RewardScale, kl
from steer.evaluation.weighted import spearman
from steer.generation.drawing import draw_parts
from steer.generation.requests import Request
from steer.iteration.guards import Figures
from steer.iteration.rounds import Rounds
from steer.labelling.scorer import Scorer, readable
from steer.methods.base import Array
from steer.models.policy import Policy
from steer.rows import Row, read, read_back
from steer.run_folder import read_done, read_json, write_json

Judges = Mapping[str, tuple[Scorer, RewardScale]]  # `proxy` and, where one is named, `gold`


def measured(rounds: Rounds, number: int, judges: Judges) -> dict[str, Any]:
    """Measure a round's policy on held-out prompts, at its best target if conditioned; watched.json is the result."""
    folder = rounds.folder(number)
    if not (folder / "watched.json").is_file():
        write_json(folder / "watched.json", _watched(rounds, number, judges))
    count = sum(1 for _ in read(folder / "rows" if number else rounds.rows))
    drift = read_json(folder / "drift.json") if (folder / "drift.json").is_file() else None
    steps = read_done(folder / "policy")["steps"] if number else 0
    facts = {"round": number, "rows": count, "steps": steps, "folder": folder.name, "drift": drift}
    return {**facts, **read_json(folder / "watched.json")}


def _watched(rounds: Rounds, number: int, judges: Judges) -> dict[str, Any]:
    settings, t, path = rounds.settings, rounds.training, rounds.policy_of(number)
    if rounds.refits and number:
        judges = {**judges, "proxy": rounds.judge(rounds.scorer_of(number))}
    split, folder, sampling = rounds.split(path), rounds.folder(number) / "held-out", rounds.sampling(settings.seed)
    policy = rounds.load(path, weights=split.opens is None)
    best, requests = watched_requests(rounds, policy)
    if split.opens:  # those that draw have the GPU for themselves; what they drew is read below
        draw_parts(policy, requests, sampling, folder, split, ids=True)
        policy = rounds.load(path)
    reference = Reference.load(rounds.model, t.dtype, t.trust_remote_code, t.micro_batch_tokens)
    rows = drawn(policy, requests, sampling, folder, reference, split=split)
    earlier = range(number if rounds.refits else 0)  # otherwise all rounds have one scorer
    others = [read_back(rounds.folder(i) / "held-out" / "answers.jsonl") for i in earlier]
    target = rounds.schema_of(policy).text(best)
    return {"target": target, **watched(policy, rows, judges, settings.seed, others)}


def watched_requests(rounds: Rounds, policy: Policy) -> tuple[Target, list[Request]]:
    """Return the target that a policy is watched at (empty: it is unconditioned) and its held-out requests."""
    names = policy.card.attributes if policy.card else ()
    best = rounds.schema_of(policy).best(names) if names else {}
    return best, [Request(row, best) for row in rounds.watched_prompts()]


def line(facts: Mapping[str, Any]) -> str:
    """Format the figures that `measured` returned as one line."""
    rewards = [
        f"{name} {x['mean']:.3f} [{x['low']:.3f}, {x['high']:.3f}]"
        for name, x in (("proxy", facts["reward"]), ("gold", facts["gold"]))
        if x
    ]
    more = [f"KL {facts['kl']['mean']:.1f} nats"] if facts["kl"] else []
    more += [f"{100 * facts['unfinished']:.0f} % cut off"] if facts["unfinished"] else []
    if facts["distinct_2"] is not None:
        more += [f"{facts['words']:.0f} words", f"distinct-2 {facts['distinct_2']:.2f}"]
    if facts["agreement"] is not None:
        more.append(f"agreement of the scorers {facts['agreement']:.2f}")
    if facts["drift"]:
        errors = ", ".join(f"{name} {x['mae']:.2f}" for name, x in facts["drift"].items() if x["mae"] is not None)
        more.append(f"mean error of the scorer before it was refitted: {errors}")
    return (
        f"round {facts['round']}: {facts['rows']} rows, reward{' at best' if facts['target'] else ''} on "
        f"{facts['reward']['n']} held-out prompts: {', '.join(rewards)} (sd of the logs), {', '.join(more)}."
    )


def watched(
    policy: Policy, rows: Sequence[Row], judges: Judges, seed: int, earlier: Sequence[Sequence[Row]] = ()
) -> dict[str, Any]:
    """Figures of watched.json, from a policy's answers to held-out prompts (rows of `drawn`).

    `earlier`: the answers of each round before, where another proxy scored those.
    """
    return _rewards(rows, judges, seed, earlier) | _surface(rows, policy, seed)


def figures(facts: Mapping[str, Any]) -> Figures:
    """Select from watched.json what the guards need; null becomes NaN."""
    rewards = {k: np.array(v, float).tolist() for k, v in facts["rewards"].items()}
    keys = {"kl": "kl_token", "distinct": "distinct_2"} | {k: k for k in ("words", "repeated", "leaked", "unfinished")}
    plain = {name: np.nan if facts[key] is None else facts[key] for name, key in keys.items()}
    return Figures(rewards["proxy"], rewards.get("gold"), earlier=rewards.get("earlier", ()), **plain)


def _rewards(rows: Sequence[Row], judges: Judges, seed: int, earlier: Sequence[Sequence[Row]]) -> dict[str, Any]:
    """Rewards with intervals, and the agreement of the two scorers on what the policy writes."""
    by = {name: _judged(rows, *judge) for name, judge in judges.items()}
    rewards: dict[str, Any] = {name: _rounded(values) for name, values in by.items()}
    if earlier:
        rewards["earlier"] = [_rounded(_judged(other, *judges["proxy"])) for other in earlier]
    return {
        "reward": interval(by["proxy"], np.arange(len(rows)), seed=seed).json(),
        "gold": interval(by["gold"], np.arange(len(rows)), seed=seed).json() if "gold" in by else None,
        "agreement": _agreement(by["proxy"], by["gold"]) if "gold" in by else None,
        "rewards": rewards,
    }


def _judged(rows: Sequence[Row], scorer: Scorer, scale: RewardScale) -> Array:
    return scale.reward(scorer.score(rows, scale.schema.own))


def _rounded(rewards: Array) -> list[float | None]:
    return [None if np.isnan(x) else round(float(x), 5) for x in rewards]


def _agreement(proxy: Array, gold: Array) -> float | None:
    """Spearman correlation of the two rewards over responses."""
    defined = ~np.isnan(proxy) & ~np.isnan(gold)
    value = float(spearman(proxy[defined], gold[defined])(np.ones((1, int(defined.sum()))))[0, 0])
    return None if np.isnan(value) else round(value, 4)


def _surface(rows: Sequence[Row], policy: Policy, seed: int) -> dict[str, Any]:
    """KL from the base, length, diversity and degeneration; an unconditioned policy cannot leak condition text."""
    names = policy.card.attributes if policy.card else ()
    texts = [readable(row)["response"] for row in rows]
    finished = [bool(row["finished"]) for row in rows]
    texture = diversity(texts, [row["id"] for row in rows], finished, resamples=100)
    kls = np.array([kl(row) for row in rows])
    with_kl = ~np.isnan(kls)
    tokens = sum(row["tokens"] for row, measurable in zip(rows, with_kl) if measurable)
    return {
        "kl": interval(kls, np.arange(len(rows)), seed=seed).json() if with_kl.any() else None,
        "kl_token": float(kls[with_kl].sum() / tokens) if with_kl.any() else None,
        "words": texture["words"]["mean"],
        "distinct_2": texture["distinct_2_all"],
        "repeated": texture["repeated_3"]["mean"] or 0.0,
        "leaked": max(leaked(texts, leaks(names, template)) for template in ("tags", "steerlm")) if names else 0.0,
        "unfinished": 1 - sum(finished) / len(finished),
    }
