"""Evaluate policies and responses: policies answer held-out prompts, gold and annotators judge every answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from steer import report
from steer.evaluation import interop
from steer.evaluation.annotators import identified
from steer.evaluation.drawn import Reference
from steer.evaluation.examination import RANDOM, Examination, Examinee
from steer.evaluation.result import Case, result, spread
from steer.evaluation.settings import EvaluateSettings
from steer.evaluation.sources import Contestant, Entrant, contestants
from steer.evaluation.systems import NO_BASE, Answers, System
from steer.models.policy import load_policy
from steer.progress import note_once
from steer.report.circumstances import circumstances
from steer.rows import Row, Source
from steer.rows.labelled import Labelled, content_of
from steer.run_folder import origin_of, rows_fingerprint, slugs, workplace
from steer.settings import settings_of

MOST_TARGETS = 20  # of given responses that are a system each


@dataclass(frozen=True)
class Evaluation:
    """Result of an evaluation or comparison: `result` is the content of report.json, `case` the judged answers."""

    result: dict[str, Any] = field(repr=False)
    case: Case = field(repr=False)

    @property
    def table(self) -> str:
        """Headline and comparison of all systems, as text."""
        return report.table(self.result)

    @property
    def dial(self) -> dict[str, Any]:
        """Obtained levels against the levels asked for, of the first system with a dial; empty if there is none."""
        return next((dial["result"] for dial in self.result["dials"]), {})

    def save(self, folder: str | Path) -> Path:
        """Write report.json, report.md, report.html and the votes of annotators; return the path of the page."""
        page = report.write(self.result, Path(folder))
        interop.votes(Path(folder), self.case)
        return page


def evaluate(
    systems: Entrant | Mapping[str, Entrant],
    *,
    prompts: Source | Labelled | None = None,
    gold: str = "",
    scorer: str = "",
    folder: str | Path | None = None,
    **settings: Any,
) -> Evaluation:
    """Let policies answer `prompts`, judge all answers, and compare the systems; the first is the baseline.

    `systems`: a policy, responses, a path of either, or a mapping of names to them. `prompts`: labelled rows, whose
    held-out prompts policies answer, and which give the schema and the unit of the reward (default: the prompts of the
    responses). `gold`: the scorer that judges, better one that training never saw; `scorer`: the one that training saw
    (default: the one that labelled the rows), which judges where no gold is named, and the result says so. `settings`
    are those of EvaluateSettings. With a `folder` the answers are kept there, a stopped evaluation resumes, and the
    report is saved there too. Raises SteerError where nothing can judge, or no prompt is held out.
    """
    chosen = settings_of(EvaluateSettings, settings)
    examination = Examination(
        chosen,
        prompts,
        gold,
        scorer,
        contestants(systems),
        first_seed=chosen.seed,
        trust_remote_code=chosen.trust_remote_code,
    )
    examination.check()
    hashes = inputs(examination)
    with workplace(folder, chosen, hashes) as place:
        evaluation = evaluated(examination, place, hashes)
        if folder is not None:
            evaluation.save(place)
    return evaluation


def inputs(examination: Examination[EvaluateSettings]) -> dict[str, str]:
    """Fingerprints of everything that the result depends on, beside the settings."""
    hashes = {f"{c.name}, {c.seed}": c.identity for c in examination.contestants}
    if examination.source is not None:
        path, source = examination.path, examination.source
        hashes["rows"] = rows_fingerprint(path) if path else content_of(examination.rows, source)
    if reference := examination.settings.reference:
        hashes["reference"] = origin_of(reference)
    specs = (examination.judge, examination.proxy, *examination.settings.annotator)
    trust = {"trust_remote_code": examination.trust_remote_code}
    return hashes | {spec: identified(spec, **trust) for spec in specs if spec}


def evaluated(
    examination: Examination[EvaluateSettings], folder: Path, hashes: Mapping[str, str], *, command: str = ""
) -> Evaluation:
    """Let policies answer and judge everything; answers are kept in the folder and read back from it.

    `hashes`: what `inputs` returned; `command` repeats the evaluation. The report shows both.
    """
    by_seed: dict[tuple[str, str], dict[int, Answers]] = {}
    grids: dict[str, dict[int, Answers]] = {}
    for contestant, (seed, base) in zip(examination.contestants, repetitions(examination.contestants)):
        if contestant.rows is not None:
            answers, grid = _logged(examination, contestant.rows)
        else:
            answers, grid = _asked(examination, contestant, folder)
        for target, each in answers.items():
            by_seed.setdefault((contestant.name, target), {})[seed] = replace(each, base=base)
        if grid:
            grids.setdefault(contestant.name, {})[seed] = replace(grid, base=base)
    systems = [
        System(f"{name} @ {target}" if target else name, name, each, "" if target == RANDOM else name, "", target)
        for (name, target), each in by_seed.items()
    ]
    first = examination.contestants[0].name  # the baseline, also of dials
    case = examination.case(systems, systems[0].name, grids, first if first in grids else "")
    about = {**_about(examination, systems), "commands": [command] if command else [], "hashes": hashes}
    return Evaluation(result(case, about), case)


def repetitions(contestants: Sequence[Contestant]) -> list[tuple[int, int]]:
    """Seed and number of the base of each contestant: equal seeds of two systems are on one base, where they share it.

    The bases are those that policies were trained from.
    """
    cards = [contestant.card for contestant in contestants]
    origins = [(card.base_hash or card.base, card.base_revision) if card else None for card in cards]
    numbers = {origin: i for i, origin in enumerate(dict.fromkeys(filter(None, origins)))}
    count: Counter[tuple[str, int]] = Counter()
    found = []
    for contestant, origin in zip(contestants, origins):
        first = numbers[origin] if origin else 0
        seed = first + max(1, len(numbers)) * count[contestant.name, first]
        count[contestant.name, first] += 1
        found.append((seed, first if origin else NO_BASE))
    return found


def _logged(
    examination: Examination[EvaluateSettings], rows: Sequence[Row]
) -> tuple[dict[str, Answers], Answers | None]:
    """Score responses; those to several targets are a system each, and have a dial."""
    whole = examination.court.scored([{**row, "target": row.get("target") or {}} for row in rows])
    places: dict[str, list[int]] = {}
    for i, row in enumerate(whole.rows):
        places.setdefault(_asked_for(row), []).append(i)
    if len(places) < 2:
        return {"": whole}, None
    if not examination.schema.cells:
        note_once("responses to several targets: their dial needs the levels of the labelled rows (--rows).")
    if len(places) > MOST_TARGETS:
        note_once(f"responses to {len(places)} targets are pooled; up to {MOST_TARGETS} would be a system each.")
        places = {"": [*range(len(rows))]}
    return {
        target: Answers([whole.rows[i] for i in some], whole.gold[some], whole.proxy[some])
        for target, some in places.items()
    }, whole if examination.schema.cells else None


def _asked_for(row: Row) -> str:
    """Write the target of a response as it was asked for; `none` for no target."""
    return str(row.get("asked") or " ".join(f"{n}={level}" for n, level in row["target"].items()) or "none")


def _asked(
    examination: Examination[EvaluateSettings], contestant: Contestant, folder: Path
) -> tuple[dict[str, Answers], Answers | None]:
    """Let a policy answer at all targets, and over the grid if it is conditioned."""
    s = examination.settings
    policy = contestant.policy or load_policy(contestant.path, dtype=s.dtype, trust_remote_code=s.trust_remote_code)
    card = policy.card
    base, commit = (s.reference, "") if s.reference or not card else (card.base, card.base_revision)
    reference = Reference.load(base, s.dtype, s.trust_remote_code, s.micro_batch_tokens, commit) if base else None
    names = slugs(c.name for c in examination.contestants)
    place = folder / "runs" / f"{names[contestant.name]}-seed{contestant.seed}"
    examinee = Examinee(policy, place, contestant.seed, reference)
    answers = examination.at_targets(examinee, s.target, n=s.n)
    return {target: each for (target, _), each in answers.items()}, examination.over_grid(examinee)


def _about(examination: Examination[EvaluateSettings], systems: Sequence[System]) -> dict[str, object]:
    """Describe how the evaluation was made, for the report."""
    unit = "the labelled rows" if examination.rows else "all responses that are evaluated"
    seeds = max(len(s.answers) for s in systems)
    bases = max(len({answers.base for answers in s.answers.values()}) for s in systems)
    plain = "Intervals are 95 %, bootstrapped over prompts" + (" and seeds." if seeds > 1 else " only.")
    return {
        "title": "Evaluation of " + ", ".join(dict.fromkeys(c.name for c in examination.contestants)),
        **circumstances("evaluate"),
        "seeds": seeds,
        "prompts": len(examination.prompts),
        "unit": "the logs" if examination.rows else unit,
        "notes": [
            *([f"Rewards are in standard deviations of {unit}, whose mean is 0."] if examination.judge else []),
            spread(seeds, bases) if bases > 1 else plain,
        ],
        "budget": None,
        "failures": [],
    }
