"""Result of an evaluation as JSON, from the answers of all systems; `steer.report` renders it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from steer.evaluation.annotators import Annotator, Meeting, meetings, vote, win_rates
from steer.evaluation.controllability import correlation
from steer.evaluation.court import Court
from steer.evaluation.frontier import answer_tokens, frontiers
from steer.evaluation.scorer import fresh, report
from steer.evaluation.statistics import holm, smallest
from steer.evaluation.systems import (
    UNKNOWN,
    Answers,
    PerPrompt,
    RewardScale,
    System,
    dial,
    difference,
    paired_seeds,
    slope_gains,
    summary,
)
from steer.evaluation.votes import SYSTEM
from steer.evaluation.winrate import Votes
from steer.labelling.scorer import readable
from steer.methods.awr import values as by_prompt
from steer.report.cells import ALPHA, finite, is_control, verdict
from steer.rows import prompt_key

SAMPLES = 3  # prompts whose answers the report shows


@dataclass
class Case:
    """Answers to judge, and how. `baseline`: the system that the others are compared with, empty for none.

    `dial`: the name in `grids` whose dial those of the others are compared with, empty for none.
    """

    court: Court
    systems: Sequence[System]
    baseline: str
    resamples: int
    logged: Answers | None = None  # logged responses to the prompts that the systems answered
    grids: Mapping[str, Mapping[int, Answers]] = field(default_factory=dict)  # over a grid of targets, by seed
    annotators: Sequence[Annotator] = ()
    pairs: str = "all"
    controls: bool = False
    dial: str = ""
    held_out: bool = False  # whether the logged responses are to prompts that the rows name as held out
    blind: bool = False  # the scorer that training saw is unknown: there is gold alone

    @cached_property
    def ordered(self) -> list[System]:
        """Systems, the baseline first."""
        return sorted(self.systems, key=lambda s: s.name != self.baseline)

    @cached_property
    def met(self) -> list[Meeting]:
        """Pairs of answers for annotators, with the names of their systems."""

        def named(one: Answers, name: str) -> Answers:
            return replace(one, rows=[{**row, SYSTEM: name} for row in one.rows])

        return meetings([{n: named(a, s.name) for n, a in s.answers.items()} for s in self.ordered], self.pairs)

    @cached_property
    def votes(self) -> list[Votes]:
        """Votes of all annotators; none if there are fewer than two systems."""
        return [vote(who, self.met) for who in self.annotators] if len(self.systems) > 1 else []


def result(case: Case, about: Mapping[str, Any]) -> dict[str, Any]:
    """Return the result that `steer.report` writes; `about` describes how it was made."""
    court = case.court
    schema, gold, proxy = court.schema, court.by_gold, court.by_proxy
    everything = [*([System("logs", "logged responses", {0: case.logged})] if case.logged else []), *case.systems]
    first = next((s for s in case.systems if s.name == case.baseline), None)
    repeated = about.get("seeds", max((len(s.answers) for s in case.systems), default=0)) > 1
    counts = [count for s in case.systems for count in _counts(s)]
    logged = [count for s in everything for count in _counts(s)]
    alike = PerPrompt(min(logged, default=0), max(counts, default=0))
    systems = [_system(s, gold, proxy, alike, case.resamples) for s in everything]
    for system, figures in zip(everything, systems):
        if first and system.name not in (first.name, "logs") and _comparable(system, first):
            draws = max(case.resamples, 100 * len(systems))  # so that no p-value is too coarse for Holm's correction
            figures["difference"] = difference(system.answers, first.answers, gold, draws)
    _judged([s["difference"] for s in systems if s["difference"]], repeated)
    for s in systems if case.blind else ():
        s |= {"proxy": UNKNOWN.json(), "fresh": None}
    return {
        **about,
        "baseline": case.baseline,
        "counted": schema.counted,
        "gold": court.gold.id,
        "proxy": "not named" if case.blind else court.proxy.id,
        "gold_is_proxy": court.gold.id == court.proxy.id and not case.blind,
        "behaviour": {
            "reward_sd_raw": gold.sd,
            "names": list(schema.own),
            "attributes": {
                n: {"mean": float(np.nanmean(court.logs.gold[:, j])), "sd": float(np.nanstd(court.logs.gold[:, j]))}
                for j, n in enumerate(schema.own)
            },
            "correlation": correlation(court.logs.gold).tolist(),
        },
        "systems": systems,
        "seconds": {s.name: s.facts.get("seconds", 0) for s in case.systems},
        "frontiers": frontiers(case.systems, gold, case.resamples),
        "win_rates": _win_rates(case),
        "scorer": _scorer(case),
        "prompt_only": _prompt_only(court) if case.controls else None,
        "choices": _choices(case, repeated),
        "dials": _dials(case, repeated),
        "samples": _samples(case),
        "iterate": None,
    }


def spread(seeds: int, bases: int) -> str:
    """Sentence on what the intervals of so many repetitions cover."""
    if seeds == 1:
        return (
            "Intervals are 95 %, bootstrapped over prompts only, so claims hold for these policies alone: one "
            "repetition does not show how seeds or bases differ."
        )
    if bases == 1:
        return f"Intervals are 95 %, bootstrapped over prompts and {seeds} seeds on one base."
    nested = "; the seeds on each base are averaged first" if seeds > bases else ""
    return f"Intervals are 95 %, bootstrapped over prompts and {bases} bases{nested}."


def _choices(case: Case, repeated: bool) -> list[dict[str, Any]]:
    """Gold reward that choosing the best of n gains over one of the same n at random; a family of its own."""
    answers = {s.name: s.answers for s in case.systems}
    paired = [s for s in case.systems if s.twin in answers]
    gold, draws = case.court.by_gold, max(case.resamples, 100 * len(paired))
    choices: list[dict[str, Any]] = [
        {"name": s.name, "gain": difference(s.answers, answers[s.twin], gold, draws)} for s in paired
    ]
    _judged([choice["gain"] for choice in choices], repeated)
    return choices


def _dials(case: Case, repeated: bool) -> list[dict[str, Any]]:
    """Dials of all systems that answered a grid, and the slopes of each less those of the one to compare with.

    The slopes of all systems and attributes are one family, without those of the control, which nobody claims.
    """
    gold, first, dials, family = case.court.by_gold, case.grids.get(case.dial), [], list[dict[str, Any]]()
    draws = max(case.resamples, 100 * len(case.grids) * len(gold.schema.own))
    for name, seeds in case.grids.items():
        rows = next(iter(seeds.values())).rows
        names = [n for n in gold.schema.own if any(n in row["target"] for row in rows)]
        if names:
            targets = len({str(sorted(row["target"].items())) for row in rows})
            measured = dial([*seeds.values()], gold, names, case.court.spans, case.resamples)
            slopes = slope_gains(seeds, first, gold, names, draws) if first and name != case.dial else None
            less = {"name": case.dial, "slopes": slopes} if slopes else None
            shown = {n: [*gold.schema[n].shown] for n in names}
            dials.append({"name": name, "targets": targets, "shown": shown, "result": measured, "less": less})
            family += slopes.values() if slopes and not is_control(dials[-1]) else ()
    _judged(family, repeated)
    return dials


def _counts(s: System) -> list[int]:
    """Number of answers to each prompt under each seed."""
    return [int(n) for a in s.answers.values() for n in np.unique(a.prompts, return_counts=True)[1]]


def _system(s: System, gold: RewardScale, proxy: RewardScale, candidates: PerPrompt, resamples: int) -> dict[str, Any]:
    """One row of the comparison."""
    seeds = list(s.answers.values())
    target = seeds[0].rows[0].get("asked", "") if s.target and s.target != "random" else ""
    return {
        "name": s.name, "method": s.method, "settings": s.settings, "target": target, "family": s.family,
        "seeds": len(seeds), "difference": None, "ess": s.facts.get("ess"),
        "learning_rate": s.facts.get("learning_rate"),
        "prompt_tokens": _prompt_tokens(seeds),
        "answer_tokens": float(np.mean(np.concatenate([answer_tokens(a, s) for a in seeds]))),
        **{key: s.facts.get(key, 0) for key in ("train_tokens", "steps", "rounds", "drawn", "drawn_tokens", "scored")},
        **summary(seeds, gold, proxy, gold.schema.names, resamples, candidates),
        "fresh": fresh(seeds, gold, proxy),
    }  # fmt: skip


def _prompt_tokens(seeds: Sequence[Answers]) -> float | None:
    """Mean of the tokens that a policy read before its answers; None where it is unknown."""
    numbers = [row.get("prompt_tokens", np.nan) for answers in seeds for row in answers.rows]
    return None if np.isnan(numbers).any() else float(np.mean(numbers))


def _comparable(a: System, b: System) -> bool:
    """Whether two systems answered a common prompt in all seeds that are paired."""
    pairs = paired_seeds(a.answers, b.answers)
    common = [set(a.answers[i].prompts.tolist()) & set(b.answers[j].prompts.tolist()) for i, j in pairs]
    return bool(common) and all(common)


def _judged(family: Sequence[dict[str, Any]], repeated: bool) -> None:
    """Add to every difference of a family Holm's corrected p-value, the verdict, and the least that could be shown.

    `least`: the smallest true difference that this many prompts, seeds and bases would have shown with a chance of
    POWER at Holm's first and strictest level, .05 by the number of differences, by the observed standard error.
    Where the evaluation is `repeated`, a difference whose interval does not hold for other seeds (`one_seed`) is not
    judged: it takes no part in the family.
    """
    for d in family:
        d["one_seed"] = repeated and d["p"] is None and d["p_prompts"] is not None
    known = [d for d in family if d["p_prompts"] is not None and not d["one_seed"]]
    for d, p in zip(known, holm([d["p_prompts"] for d in known])):
        d["p_holm"] = p
    for d in family:
        d.setdefault("p_holm", None)
        least = math.nan if d["one_seed"] else smallest(d["errors"], ALPHA / max(1, len(known)))
        d |= {"verdict": verdict(finite(d)), "least": least}


def _win_rates(case: Case) -> dict[str, Any] | None:
    """Win-rates by all annotators, the baseline first."""
    if not case.votes:
        return None
    return win_rates(case.annotators, [s.name for s in case.ordered], case.votes, case.resamples)


def _scorer(case: Case) -> dict[str, Any] | None:
    """The proxy against gold on logged responses, and whether no training saw them."""
    court = case.court
    if case.logged is None or court.gold.id == court.proxy.id:
        return None
    attributes = report(case.logged, court.schema.own)
    return {"rows": len(case.logged.rows), "held_out": case.held_out, "attributes": attributes}


def _prompt_only(court: Court) -> dict[str, Any]:
    """Correlation of the reward with its prediction from the prompt's words alone (ridge, out of fold)."""
    reward = court.by_gold.reward(court.logs.gold)
    defined = np.flatnonzero(~np.isnan(reward))
    rows = [{**row, "reward": float(r)} for row, r in zip(court.rows, reward) if not np.isnan(r)]
    predicted = np.array(by_prompt(rows), dtype=float)
    r = float(np.corrcoef(predicted, reward[defined])[0, 1]) if np.ptp(predicted) and np.ptp(reward[defined]) else 0.0
    return {"rows": len(defined), "pearson": r}


def _samples(case: Case) -> list[dict[str, Any]]:
    """Answers of every system to the first prompts."""
    samples: dict[str, dict[str, Any]] = {}
    for s in case.systems:
        answers = next(iter(s.answers.values()))
        prompts = set()
        for row, scores in zip(answers.rows, answers.gold):
            key = prompt_key(row)
            if key in prompts or (key not in samples and len(samples) >= SAMPLES):
                continue
            prompts.add(key)
            sample = samples.setdefault(key, {"prompt": row["prompt"][-1]["content"], "answers": []})
            rounded = {n: round(float(x), 2) for n, x in zip(case.court.schema.own, scores) if not np.isnan(x)}
            sample["answers"].append({"name": s.name, "text": readable(row)["response"], "scores": rounded})
    return list(samples.values())
