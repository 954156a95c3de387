"""Learning rates of a comparison: every method is tried at several on training rows, and the proxy chooses."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from steer.comparison.comparison import Comparison, Outcome
from steer.comparison.entry import Entry
from steer.comparison.rates import RATES, read_rates
from steer.comparison.runs import outcomes_of
from steer.comparison.trained import SUMMED
from steer.errors import SteerError
from steer.evaluation.drawn import Decoding
from steer.evaluation.statistics import Interval, interval
from steer.evaluation.systems import difference
from steer.methods import METHODS, peak_rate
from steer.progress import note
from steer.report.cells import counted
from steer.rows import split_key
from steer.run_folder import write_json
from steer.training.prepare import chosen as chosen_method

STEP = 3.0  # ratio of neighbouring rates: half a decade
ONE_IN = 5  # tuning holds out at most one training prompt in so many


def check_tuning(comparison: Comparison) -> None:
    """Raise SteerError if a tuning is asked for that cannot choose, or rates that cannot be read; write nothing."""
    config = comparison.config
    known(comparison)
    if config.tune == 1:
        raise SteerError("--tune 1: one learning rate leaves nothing to choose. Try 3, or 0 for each method's own.")
    if config.tune and len(held_out(comparison)) < 2:
        raise SteerError("--tune: the rows have too few training prompts to hold out two. Leave it out, or add rows.")


def tuned(comparison: Comparison, entries: Sequence[Entry]) -> list[Entry]:
    """Choose the learning rate of every entry that names none; return the entries that can run, with their rates.

    Entries of the same training share a choice: a method with rounds takes what was chosen for it on the logs, if it
    can train on them. What stands in front (after=) is tuned first, and trained at its own choice. The base is the
    first, the seed one that no repetition has. What --rates holds is not tried again. `comparison.tuning` gets what the
    report says of it.
    """
    config = comparison.config
    if not config.tune and not config.rates:
        return list(entries)
    chosen: dict[Entry, float | None] = dict(known(comparison))
    if config.rates:
        comparison.taken = _taken(comparison, entries, chosen)
        note(comparison.taken)
    if config.tune and (new := phases(entries, chosen, comparison)):
        chosen = _with_tries(comparison, new, chosen)
    write_json(comparison.folder / RATES, {entry.spec: share for entry, share in chosen.items() if share})
    able = []
    for entry in entries:
        complete, key = _with_front(entry, chosen), tried(entry, comparison) if tunable(entry) else None
        if complete is None or (key in chosen and chosen[key] is None):
            lost = entry.spec if complete else f"after={entry.after}"
            comparison.fail(entry.spec, f"{lost} did not run at any learning rate that was tried.")
        else:
            able.append(replace(complete, rate=chosen.get(key, entry.rate) if key else entry.rate))
    return able


def known(comparison: Comparison) -> dict[Entry, float]:
    """Shares that --rates holds, by the entry that was tried at them."""
    path, found = comparison.config.rates, {}
    for spec, share in read_rates(path).items() if path else ():
        try:
            found[tried(Entry.of(spec), comparison)] = share
        except SteerError as error:
            raise SteerError(f"--rates {path}: {error}") from None
    return found


def _taken(comparison: Comparison, entries: Sequence[Entry], known: Mapping[Entry, float | None]) -> str:
    """Say how many of the methods have their rate from the file, and what the others take."""
    keys = [entry for phase in phases(entries, (), comparison) for entry in phase]
    lacking = [entry.spec for entry in keys if entry not in known]
    others = f"{', '.join(lacking)}: {'tried' if comparison.config.tune else 'at their own'}." if lacking else ""
    return (
        f"Learning rates of {len(keys) - len(lacking)} of {counted(len(keys), 'method')} are those of "
        f"{comparison.config.rates}. {others}"
    ).strip()


def _with_tries(
    comparison: Comparison, new: Sequence[Sequence[Entry]], known: Mapping[Entry, float | None]
) -> dict[Entry, float | None]:
    """Try the new entries, by phase; add the share that was chosen for each, None where no run succeeded."""
    inner, seed = on_training_rows(comparison), len(comparison.seeds)
    choices: dict[Entry, Choice] = {}
    chosen = dict(known)
    for phase in new:
        ready = {entry: _with_front(entry, chosen) for entry in phase}
        trials = {entry: _trials(e, comparison.config.tune) if e else {} for entry, e in ready.items()}
        outcomes = outcomes_of(inner, [trial for some in trials.values() for trial in some.values()], [seed])
        for entry, some in trials.items():
            runs = {share: outcomes.get(trial, {}).get(seed) for share, trial in some.items()}
            choices[entry] = Choice.of(inner, entry, runs)
            chosen[entry] = choices[entry].share
    comparison.failures += [{**lost, "name": f"tuning, {lost['name']}"} for lost in inner.failures]
    comparison.tuning = _report(comparison, inner, choices)
    return chosen


def on_training_rows(comparison: Comparison) -> Comparison:
    """The comparison that tunes: trained and judged on training rows alone, the proxy as the only judge."""
    config, folder = comparison.config, comparison.folder / "tuning"
    held, rows = set(held_out(comparison)), folder / "rows"
    if not (rows / "done.json").is_file():
        parted = [row | {"split": "test" if split_key(row) in held else "train"} for row in comparison.logs]
        replace(comparison.labelled, rows=parted).save(rows)
    alone = replace(
        config,
        rows=str(rows),
        base=(),
        gold="",
        scorer=comparison.proxy,
        annotator=(),
        rates="",
        target=("best",),
        num_prompts=0,
        grid=0,
        controls=False,
        max_steps=comparison.settings.max_steps,
    )
    return Comparison(alone, folder, loaded=comparison.loaded)


def held_out(comparison: Comparison) -> list[str]:
    """Keys of the training prompts, or whole conversations, that tuning holds out; they follow from these alone."""
    keys = dict.fromkeys(split_key(row) for row in comparison.logs)
    order = sorted(keys, key=lambda key: hashlib.blake2b(f"tuning:{key}".encode()).hexdigest())
    return order[: min(comparison.config.tune_prompts, len(order) // ONE_IN)]


def tunable(entry: Entry) -> bool:
    """Whether an entry trains at a rate that it does not name itself."""
    return not entry.untrained and not {"rate", "learning_rate"} & dict(entry.training).keys()


def trains_on_logs(comparison: Comparison, entry: Entry) -> bool:
    """Whether the rows that tuning trains on have what the method of an entry compares or chooses among."""
    key = entry.start  # whatever its rounds are
    if key not in comparison.on_logs:
        held, (method, own) = set(held_out(comparison)), chosen_method(entry.method, entry.settings)
        try:
            groups = method.groups([row for row in comparison.logs if split_key(row) not in held], own)
        except SteerError:
            groups = []
        comparison.on_logs[key] = bool(groups)
    return comparison.on_logs[key]


def tried(entry: Entry, comparison: Comparison | None = None) -> Entry:
    """The entry whose tuning serves an entry: without rounds (with one, where it needs draws), one plain decoding.

    What can do without draws needs them where the logs of the comparison have too few responses a prompt; None: some
    logs that have enough.
    """
    method = None if entry.untrained else METHODS[entry.method]
    draws = method is not None and (method.importance or "draws" in method.needs)
    if entry.iterate and not draws and not entry.conditioned:  # one with a condition trains on the logs in any case
        draws = comparison is not None and not trains_on_logs(comparison, entry)
    if not entry.iterate or method is None or not draws:
        return replace(entry.start, decodings=(Decoding(),), rate=None, front_rate=None, permuted=False)
    name, _, rest = entry.spec.partition(":")
    parts = [part for part in rest.split(",") if part and not part.startswith("rounds=")]
    return Entry.of(f"{name}:{','.join(parts if method.importance else [*parts, 'rounds=1'])}")


def phases(
    entries: Sequence[Entry], known: Container[Entry] = (), comparison: Comparison | None = None
) -> list[list[Entry]]:
    """Entries to tune: those that train on the logs, with what stands in front of others, then the others.

    `known`: those that were tuned before; `comparison`: see `tried`.
    """
    keys = dict.fromkeys(tried(entry, comparison) for entry in entries if tunable(entry) and not entry.permuted)
    fronts = [tried(entry.stage) for entry in entries if entry.stage]
    first = dict.fromkeys([*filter(tunable, fronts), *(entry for entry in keys if not entry.after)])
    both = (list(first), [entry for entry in keys if entry.after])
    return [new for phase in both if (new := [entry for entry in phase if entry not in known])]


def shares(method: str, count: int) -> list[float]:
    """Shares of the learning rate of likelihood methods that are tried, the method's own among them.

    >>> shares("mle", 3)
    [0.333, 1.0, 3.0]
    """
    return [float(f"{METHODS[method].rate * STEP ** (i - count // 2):.3g}") for i in range(count)]


@dataclass(frozen=True)
class Choice:
    """What the proxy made of an entry at several shares of the learning rate.

    `share`: the one that was chosen, with the highest mean proxy reward; None if no run succeeded. Rewards and gain are
    over the prompts held out for which all tries that have scores have one, so that none is chosen for what it lacks.
    """

    share: float | None
    runs: Mapping[float, Outcome]
    rewards: Mapping[float, Interval]
    gain: dict[str, Any] | None  # of the chosen share over the method's own, paired; None if they are the same
    unscored: int = 0  # prompts that are left out

    @staticmethod
    def of(inner: Comparison, entry: Entry, runs: Mapping[float, Outcome | None]) -> Choice:
        """Choose; a run that failed, or whose answers the proxy cannot score, is not chosen.

        Of equals, and where no prompt has scores of all, the one that is nearest to the method's own is.
        """
        done = {share: run for share, run in runs.items() if run and run.answers}
        answers = {share: next(iter(run.answers.values())) for share, run in done.items()}
        by_proxy, own = inner.examination.court.by_proxy, METHODS[entry.method].rate
        scores = {share: by_proxy.reward(a.proxy) for share, a in answers.items()}
        known = {share: {*a.prompts[~np.isnan(scores[share])].tolist()} for share, a in answers.items()}
        scored = [share for share, prompts in known.items() if prompts]
        shared = set.intersection(*(known[share] for share in scored)) if scored else set()
        asked = {key for share in scored for key in answers[share].prompts.tolist()}
        judged, rewards = {}, {}
        for share, a in answers.items():
            compared = np.isin(a.prompts, [*shared])
            judged[share] = replace(a, gold=np.where(compared[:, None], a.proxy, np.nan))
            rewards[share] = interval(np.where(compared, scores[share], np.nan), a.prompts)
        means = {share: np.nan_to_num(rewards[share].mean, nan=-np.inf) for share in scored}
        best = max(scored, key=lambda s: (means[s], -abs(np.log(s / own)))) if scored else None
        tested = shared and best is not None and best != own and own in scored
        gain = difference({0: judged[best]}, {0: judged[own]}, by_proxy, 2000) if tested and best else None
        return Choice(best, done, rewards, gain, len(asked - shared))


def _with_front(entry: Entry, chosen: Mapping[Entry, float | None]) -> Entry | None:
    """Return the entry with the rate of what stands in front of it; None if that ran at none."""
    front = entry.stage
    if front is None or not tunable(front) or (key := tried(front)) not in chosen:
        return entry
    share = chosen[key]
    return None if share is None else replace(entry, front_rate=share)


def _trials(entry: Entry, count: int) -> dict[float, Entry]:
    """The entry at each share of the learning rate."""
    specs = {s: f"{entry.spec}{',' if ':' in entry.spec else ':'}rate={s:g}" for s in shares(entry.method, count)}
    trials = {share: replace(Entry.of(spec), front_rate=entry.front_rate) for share, spec in specs.items()}
    return trials if entry.iterate else {share: trial.start for share, trial in trials.items()}


def _report(comparison: Comparison, inner: Comparison, choices: Mapping[Entry, Choice]) -> dict[str, Any]:
    """Describe what was tried, what was chosen, and what it took, for the report."""
    prompts = len(inner.examination.prompts)
    entries = []
    for entry, choice in choices.items():
        rates = shares(entry.method, comparison.config.tune)
        tries = [
            {
                "learning_rate": peak_rate(entry.method, inner.likelihood, share),
                "proxy": choice.rewards[share].json() if share in choice.rewards else None,
                "chosen": share == choice.share,
                "own": share == METHODS[entry.method].rate,
            }
            for share in rates
        ]
        taken = {key: sum(run.facts[key] for run in choice.runs.values()) for key in SUMMED}
        edge = choice.share in (rates[0], rates[-1])
        facts = {"runs": len(tries), "failed": len(tries) - len(choice.runs), "answers": prompts * len(choice.runs)}
        facts["unscored"] = choice.unscored
        entries.append({"name": entry.spec, "tries": tries, "gain": choice.gain, "edge": edge, **facts, **taken})
    return {"prompts": prompts, "rows": len(inner.logs), "proxy": inner.examination.court.proxy.id, "entries": entries}
