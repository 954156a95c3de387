"""Evaluate policies and responses: policies answer held-out prompts, gold and annotators judge every answer."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from steer import report
from steer.conditioning.targets import Target, drawn_targets
from steer.errors import SteerError
from steer.evaluation import interop
from steer.evaluation.annotators import Annotator, annotators, identified
from steer.evaluation.court import Court, fitting
from steer.evaluation.drawn import Asked, Decoding, Reference, drawn, over_grid
from steer.evaluation.result import Case, result
from steer.evaluation.settings import EvaluateSettings
from steer.evaluation.sources import Contestant, Entrant, contestants
from steer.evaluation.systems import Answers, System
from steer.generation.requests import Request
from steer.generation.settings import Sampling
from steer.labelling.scorer import Scorer, load_scorer
from steer.models.policy import Policy, load_policy
from steer.progress import note
from steer.report.circumstances import circumstances
from steer.rows import Reading, Row, Source, content_hash, prompt_key, read, split_of
from steer.rows.binning import described
from steer.rows.labelled import Labelled
from steer.rows.schema import Schema
from steer.run_folder import read_json, rows_fingerprint, slug, write_json
from steer.settings import settings_of
from steer.training.memory import micro_batch


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
    responses). `gold`: the scorer that judges, best one that training never saw; `scorer`: the one that training saw
    (default: the one that labelled the rows), which judges where no gold is named, and the result says so. `settings`
    are those of EvaluateSettings. With a `folder` the answers are kept there, a stopped evaluation resumes, and the
    report is saved there too. Raises SteerError where nothing can judge, or no prompt is held out.
    """
    chosen = settings_of(EvaluateSettings, settings)
    examination = Examination(contestants(systems), chosen, prompts, gold=gold, scorer=scorer)
    examination.check()
    if folder is None:
        with tempfile.TemporaryDirectory() as temporary:
            return examination.evaluation(Path(temporary))
    examination.claim(Path(folder))
    evaluation = examination.evaluation(Path(folder))
    evaluation.save(folder)
    return evaluation


@dataclass
class Examination:
    """Everything that all systems of an evaluation share: prompts, scorers, annotators, and how policies answer."""

    contestants: Sequence[Contestant]
    settings: EvaluateSettings
    source: Source | Labelled | None = None  # labelled rows
    gold: str = ""
    scorer: str = ""
    needs_gold: bool = False  # even where annotators judge

    @property
    def path(self) -> str:
        """Path of the rows; empty if there are none, or they are in memory."""
        return str(self.source) if isinstance(self.source, str | Path) else ""

    @cached_property
    def rows(self) -> list[Row]:
        """Labelled rows; those without a response count too."""
        if self.source is None:
            return []
        if isinstance(self.source, Labelled):
            return self.source.rows
        return list(read(self.source, reading=Reading(blank=True)))

    @cached_property
    def stored(self) -> Labelled:
        """What is stored with the rows: their schema and scorer, if they have them."""
        return Labelled.without_rows(self.source or ())

    @cached_property
    def schema(self) -> Schema:
        """Schema of the rows, else of the first policy that has one, else of the scorer; empty where none judges."""
        if not self.judge:
            return Schema(())
        if self.stored.schema.attributes:
            return self.stored.schema
        for card in (contestant.card for contestant in self.contestants):
            if card and card.schema:
                return card.schema
        scorer = load_scorer(self.judge)
        if scorer.schema or not scorer.attributes:
            return scorer.schema or Schema(())
        return described(scorer.attributes, np.array([[0.0] * len(scorer.attributes), [1.0] * len(scorer.attributes)]))

    @cached_property
    def court(self) -> Court:
        """Gold beside the proxy; without rows, the unit of the reward is that of all responses together."""
        gold = fitting(self.judge, self.schema) if self.judge else Scorer("", ())
        proxy = fitting(self.proxy, self.schema) if self.proxy else gold
        answered = [r for r in self.rows if r.get("response", "").strip()]
        train = [r for r in answered if split_of(r, 0.0, 0) == "train"] or answered
        return Court(self.schema, gold, proxy, train or [r for s in self.contestants for r in s.rows or ()])

    @cached_property
    def annotators(self) -> list[Annotator]:
        """Who says which response is better."""
        return annotators(self.settings.annotator, self.gold, self.schema)

    @property
    def proxy(self) -> str:
        """The scorer that training saw; empty where nothing names it."""
        return self.scorer or ("" if self.stored.spec == "human" else self.stored.spec)

    @property
    def judge(self) -> str:
        """The scorer that judges; empty where annotators alone do."""
        judge = self.gold or self.proxy
        if not judge and (not self.settings.annotator or self.needs_gold or self.settings.controls):
            raise SteerError(
                '--gold is missing: name the scorer that judges, such as a folder of "steer fit", or who says which '
                "response is better (--annotator) for win-rates alone."
            )
        return judge

    @cached_property
    def prompts(self) -> list[Row]:
        """Held-out prompts of the rows, else those of the responses that are evaluated."""
        held_out = [r for r in self.rows if split_of(r, 0.0, 0) == "test"]
        if any(s.rows is None for s in self.contestants) and self.rows and not held_out:
            if self.path or any(r.get("split") for r in self.rows):
                raise SteerError(
                    f"{self.path or 'prompts'}: no prompt is held out, so a policy may have trained on all of them. "
                    'Run "steer label" with --held-out above 0, or name rows of other prompts whose split is "test".'
                )
            note("the prompts name no split; give labelled rows if a policy may have trained on them.")
        rows = held_out or self.rows or [r for s in self.contestants for r in s.rows or ()]
        if not rows:
            raise SteerError("--rows is missing: policies need prompts to answer.")
        first = {prompt_key(row): row for row in reversed(rows)}
        return list(first.values())[::-1][: self.settings.num_prompts or None]

    @cached_property
    def inputs(self) -> dict[str, str]:
        """Identity of everything that the result depends on, beside the settings."""
        inputs = {f"{s.name}, {s.seed}": s.identity for s in self.contestants}
        if self.source is not None:
            inputs["rows"] = rows_fingerprint(self.path) if self.path else content_hash(self.rows)
        specs = (self.judge, self.proxy, *self.settings.annotator)
        return inputs | {spec: identified(spec) for spec in specs if spec}

    def check(self) -> None:
        """Raise SteerError now for all that would be refused later."""
        _ = self.court, self.prompts, self.annotators

    def claim(self, folder: Path) -> None:
        """Record in the folder what its answers are of; SteerError if it holds those of another evaluation."""
        path = folder / "evaluation.json"
        identity = {**asdict(self.settings), "inputs": self.inputs}
        identity = {k: list(v) if isinstance(v, tuple) else v for k, v in identity.items()}
        saved = read_json(path) if path.is_file() else identity
        if changed := sorted(k for k in {*saved, *identity} if saved.get(k) != identity.get(k)):
            raise SteerError(f"{folder}: holds an evaluation with other {', '.join(changed)}. Choose another folder.")
        write_json(path, identity)

    def evaluation(self, folder: Path, *, command: str = "") -> Evaluation:
        """Let policies answer, judge everything; answers are kept in the folder and read back from it."""
        case = self.case(folder)
        return Evaluation(result(case, self._about(command)), case)

    def case(self, folder: Path) -> Case:
        """Gather the answers that are to be judged."""
        found: dict[tuple[str, str], dict[int, Answers]] = {}
        grids: dict[str, list[Answers]] = {}
        for contestant in self.contestants:
            if contestant.rows is None:
                self._ask(contestant, folder, found, grids)
                continue
            answers = self.court.scored(contestant.rows)
            found.setdefault((contestant.name, ""), {})[contestant.seed] = answers
            if len({str(row.get("target")) for row in contestant.rows}) > 1 and self.court.schema.cells:
                with_target = [{**row, "target": row.get("target") or {}} for row in contestant.rows]
                grids.setdefault(contestant.name, []).append(Answers(with_target, answers.gold, answers.proxy))
        systems = [
            System(f"{name} @ {target}" if target else name, name, each, "" if target == "random" else name, "", target)
            for (name, target), each in found.items()
        ]
        keys = {prompt_key(row) for row in self.prompts}
        logged = [r for r in self.rows if prompt_key(r) in keys and r.get("response", "").strip()]
        return Case(
            self.court,
            systems,
            systems[0].name,
            self.settings.resamples,
            self.court.scored(logged) if logged else None,
            grids,
            self.annotators,
            self.settings.pairs,
            self.settings.controls,
            blind=not self.proxy,
        )

    def _ask(
        self,
        contestant: Contestant,
        folder: Path,
        found: dict[tuple[str, str], dict[int, Answers]],
        grids: dict[str, list[Answers]],
    ) -> None:
        """Let a policy answer at all targets, and over the grid if it is conditioned."""
        s = self.settings
        policy = contestant.policy or load_policy(contestant.path, dtype=s.dtype, trust_remote_code=s.trust_remote_code)
        base = s.reference or (policy.card.base if policy.card else "")
        reference = Reference.of(base, s.dtype, s.trust_remote_code) if base else None
        folder = folder / "answers" / f"{slug(contestant.name)}-{contestant.seed}"
        sampling = Sampling(
            temperature=s.temperature,
            max_new_tokens=s.max_new_tokens,
            batch_size=s.batch_size,
            seed=s.seed + contestant.seed,
        )

        def answered(requests: list[Request], name: str) -> Answers:
            asked = Asked(requests, sampling, Decoding())
            schema = policy.card.schema if policy.card else None
            tokens = micro_batch(s.micro_batch_tokens)
            return self.court.scored(drawn(policy, asked, folder / name, schema, reference, tokens))

        for target, aims in self._aims(policy, contestant.seed).items():
            requests = [Request(p, aim) for p, aim in zip(self.prompts, aims) for _ in range(s.n)]
            answers = answered(requests, slug(target) or "plain")
            found.setdefault((contestant.name, target), {})[contestant.seed] = answers
        own = tuple(n for n in policy.card.attributes if n in self.court.schema.own) if policy.card else ()
        if own and s.grid:
            requests = over_grid(self.prompts, self.court.schema, own, s.grid, contestant.seed)
            grids.setdefault(contestant.name, []).append(answered(requests, "grid"))

    def _aims(self, policy: Policy, seed: int) -> dict[str, list[Target]]:
        """For each target that the user names, the levels that each prompt is answered at."""
        count = len(self.prompts)
        if not (policy.card and policy.card.attributes and policy.card.schema):
            return {"": [{}] * count}
        aims = {text: policy.targets([text]) * count for text in self.settings.target}
        if self.settings.controls:
            aims["random"] = drawn_targets(policy.card.schema, policy.card.attributes, count, seed)
        return aims

    def _about(self, command: str) -> dict[str, object]:
        """Describe how the evaluation was made, for the report."""
        unit = "the labelled rows" if self.rows else "all responses that are evaluated"
        counts = {s.name: s.seed + 1 for s in self.contestants}
        seeds = max(counts.values())
        return {
            "title": "Evaluation of " + ", ".join(counts),
            **circumstances("evaluate"),
            "seeds": seeds,
            "prompts": len({prompt_key(row) for row in self.prompts}),
            "unit": "the logs" if self.rows else unit,
            "notes": [
                *([f"Rewards are in standard deviations of {unit}, whose mean is 0."] if self.judge else []),
                "Intervals are 95 %, bootstrapped over prompts" + (" and seeds." if seeds > 1 else " only."),
            ],
            "budget": None,
            "commands": [command] if command else [],
            "hashes": self.inputs,
            "failures": [],
        }
