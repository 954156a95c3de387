"""`steer evaluate`: policies answer, responses are read; both are judged by gold and end in one report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from steer import report
from steer.conditioning.targets import Target, drawn_targets
from steer.config import EvaluateConfig
from steer.errors import SteerError
from steer.evaluation import interop as exports
from steer.evaluation.annotators import Annotator, annotators, identified
from steer.evaluation.court import Court, fitting
from steer.evaluation.drawn import Asked, Decoding, Reference, drawn
from steer.evaluation.result import Case, result
from steer.evaluation.systems import Answers, System
from steer.generation.requests import Request
from steer.generation.settings import Sampling
from steer.labelling.scorer import Scorer, load_scorer
from steer.models.policy import Card, Policy, load
from steer.report.circumstances import circumstances
from steer.rows import Reading, Row, prompt_key, read, split_of
from steer.rows.binning import described
from steer.rows.schema import Schema, factorial
from steer.run_folder import Run, fingerprint, read_done, read_json, rows_fingerprint, slug, stage
from steer.training.memory import pieces


class Source(NamedTuple):
    """One thing to evaluate: a policy (rows None), or responses."""

    name: str
    path: str
    seed: int  # of several with one name
    rows: list[Row] | None


@dataclass
class Examination:
    """All that the evaluation of several sources shares."""

    config: EvaluateConfig
    folder: Path
    sources: Sequence[Source]

    @cached_property
    def rows(self) -> list[Row]:
        """Of --rows."""
        return list(read(self.config.rows, reading=Reading(blank=True))) if self.config.rows else []

    @cached_property
    def schema(self) -> Schema:
        """Of the rows, else of the first policy that has one, else of the scorer; empty where none judges."""
        if not self.gold:
            return Schema(())
        path = Path(self.config.rows) if self.config.rows else None
        path = path and (path if path.is_dir() else path.parent) / "schema.json"
        if path and path.is_file():
            return Schema.load(path)
        for source in self.sources:
            if source.rows is None and (Path(source.path) / "steer.json").is_file():
                schema = Card.load(Path(source.path)).schema
                if schema:
                    return schema
        scorer = load_scorer(self.gold)
        if scorer.schema or not scorer.attributes:
            return scorer.schema or Schema(())
        return described(scorer.attributes, np.array([[0.0] * len(scorer.attributes), [1.0] * len(scorer.attributes)]))

    @cached_property
    def court(self) -> Court:
        """Gold beside the proxy; what is not in --rows is judged in the unit of all responses together."""
        gold = fitting(self.gold, self.schema) if self.gold else Scorer("", ())
        proxy = fitting(self.known_proxy, self.schema) if self.known_proxy else gold
        known = [r for r in self.rows if r.get("response", "").strip()]
        train = [r for r in known if split_of(r, 0.0, 0) == "train"] or known
        return Court(self.schema, gold, proxy, train or [r for s in self.sources for r in s.rows or ()])

    @cached_property
    def annotators(self) -> list[Annotator]:
        """Who says which response is better."""
        return annotators(self.config.annotator, self.config.gold, self.schema)

    @property
    def known_proxy(self) -> str:
        """The scorer that training saw, where anything says which it was."""
        said = str(read_done(Path(self.config.rows)).get("spec", "")) if self.config.rows else ""
        return self.config.proxy or ("" if said == "human" else said)

    @property
    def gold(self) -> str:
        """The scorer that judges; empty where annotators alone do."""
        found = self.config.gold or self.known_proxy
        if not found and (not self.config.annotator or "lm-eval" in self.config.export or self.config.controls):
            raise SteerError(
                '--gold is missing: name the scorer that judges, such as a folder of "steer fit", or who says which '
                "response is better (--annotator) for win-rates alone."
            )
        return found

    @cached_property
    def prompts(self) -> list[Row]:
        """Held-out prompts of --rows, else those of the responses that are evaluated."""
        held = [r for r in self.rows if split_of(r, 0.0, 0) == "test"]
        asked = any(s.rows is None for s in self.sources)
        if asked and self.rows and not held:
            raise SteerError(
                f"{self.config.rows}: no prompt is held out, so a policy may have trained on all of them. Run "
                '"steer label" with --held-out above 0, or name rows of other prompts whose split is "test".'
            )
        given = held or self.rows or [r for s in self.sources for r in s.rows or ()]
        if not given:
            raise SteerError("--rows is missing: policies need prompts to answer.")
        first = {prompt_key(row): row for row in reversed(given)}
        found = list(first.values())[::-1]
        return found[: self.config.prompts or None]

    def sampling(self, seed: int) -> Sampling:
        """How policies answer."""
        c = self.config
        return Sampling(
            temperature=c.temperature, max_new_tokens=c.max_new_tokens, batch_size=c.batch_size, seed=c.seed + seed
        )


@stage
def evaluate_command(config: EvaluateConfig) -> str:
    """Answer what is not answered yet, judge everything; the table and the path of the report."""
    exports.known(config.export)
    sources = list(_sources(config.systems))
    inputs = {f"{s.name}, {s.seed}": fingerprint(s.path) if Path(s.path).exists() else s.path for s in sources}
    inputs |= {"rows": rows_fingerprint(config.rows)} if config.rows else {}
    exam = Examination(config, Path(config.output), sources)
    inputs |= {spec: identified(spec) for spec in (exam.gold, exam.known_proxy, *config.annotator) if spec}
    run = Run(config.output, config, inputs)
    if run.done:
        return str(run.done["summary"])
    _ = exam.court, exam.prompts, exam.annotators  # what will be refused is refused before anything is written
    run.start()
    case = _case(exam)
    told = result(case, _about(exam, inputs))
    page = report.write(told, run.folder)
    exports.votes(run.folder, case)
    written = exports.write(config, run.folder, case.systems, exam.court, exam.gold)
    count = sum(len(a.rows) for s in case.systems for a in s.answers.values())
    text = f"{report.table(told)}\nevaluate: {len(case.systems)} systems, {count} answers.{written} Report: {page}"
    return run.finish(text, answers=count)


def _sources(given: Sequence[str]) -> Iterator[Source]:
    """Names, paths and rows; a path without a name is called as its last part is, or as its `generator` says.

    A file with several generators holds as many systems.
    """
    seen: dict[str, int] = {}
    for text in given:
        name, sign, path = text.partition("=")
        if not sign or Path(text).exists():
            name, path = "", text
        rows = None if _is_policy(path) else list(read(path, reading=Reading(blank=True)))
        parts: dict[str, list[Row]] = {}
        for row in rows or ():
            parts.setdefault(str(row.get("generator") or ""), []).append(row)
        plain = Path(path).name.split(".")[0]
        several = len(parts) > 1
        for made, part in parts.items() if several else [(next(iter(parts), ""), rows)]:
            called = (f"{name} {made}".strip() if several else name or made) or plain
            seen[called] = seen.get(called, -1) + 1
            yield Source(called, path, seen[called], part)


def _is_policy(path: str) -> bool:
    """A folder of `steer train` or of Hugging Face; or no path at all, but a name on the hub."""
    folder = Path(path)
    if folder.is_dir():
        config = folder / "config.json"
        return (folder / "steer.json").is_file() or (config.is_file() and "model_type" in read_json(config))
    return not folder.exists() and not folder.suffix and not path.startswith("hf:")


def _case(exam: Examination) -> Case:
    """What is to be judged."""
    found: dict[tuple[str, str], dict[int, Answers]] = {}
    grids: dict[str, list[Answers]] = {}
    for source in exam.sources:
        if source.rows is None:
            _asked(exam, source, found, grids)
            continue
        answers = exam.court.scored(source.rows)
        found.setdefault((source.name, ""), {})[source.seed] = answers
        if len({str(row.get("target")) for row in source.rows}) > 1 and exam.court.schema.cells:
            with_target = [{**row, "target": row.get("target") or {}} for row in source.rows]
            grids.setdefault(source.name, []).append(Answers(with_target, answers.gold, answers.proxy))
    systems = [
        System(f"{name} @ {target}" if target else name, name, answers, "" if target == "random" else name, "", target)
        for (name, target), answers in found.items()
    ]
    keys = {prompt_key(row) for row in exam.prompts}
    held = [r for r in exam.rows if prompt_key(r) in keys and r.get("response", "").strip()]
    return Case(
        exam.court,
        systems,
        systems[0].name,
        exam.config.resamples,
        exam.court.scored(held) if held else None,
        grids,
        exam.annotators,
        exam.config.pairs,
        exam.config.controls,
        blind=not exam.known_proxy,
    )


def _asked(
    exam: Examination, source: Source, found: dict[tuple[str, str], dict[int, Answers]], grids: dict[str, list[Answers]]
) -> None:
    """Let a policy answer at all targets, and over the grid where it was conditioned."""
    c = exam.config
    policy = load(source.path, dtype=c.dtype, trust_remote_code=c.trust_remote_code)
    base = c.reference or (policy.card.base if policy.card else "")
    reference = Reference.of(base, c.dtype, c.trust_remote_code) if base else None
    folder = exam.folder / "answers" / f"{slug(source.name)}-{source.seed}"

    def answered(jobs: list[Request], where: str) -> Answers:
        asked = Asked(jobs, exam.sampling(source.seed), Decoding())
        schema = policy.card.schema if policy.card else None
        return exam.court.scored(drawn(policy, asked, folder / where, schema, reference, pieces(c.micro_batch_tokens)))

    for target, aims in _aims(exam, policy, source.seed).items():
        jobs = [Request(p, aim) for p, aim in zip(exam.prompts, aims) for _ in range(c.n)]
        found.setdefault((source.name, target), {})[source.seed] = answered(jobs, slug(target) or "plain")
    own = tuple(n for n in policy.card.attributes if n in exam.court.schema.own) if policy.card else ()
    if own and c.grid:
        every = factorial(exam.court.schema, own, c.grid, source.seed)
        jobs = [Request(exam.prompts[i % len(exam.prompts)], aim) for i, aim in enumerate(every)]
        grids.setdefault(source.name, []).append(answered(jobs, "grid"))


def _aims(exam: Examination, policy: Policy, seed: int) -> dict[str, list[Target]]:
    """What each prompt is answered at, by the target that was asked for."""
    count = len(exam.prompts)
    if not (policy.card and policy.card.attributes and policy.card.schema):
        return {"": [{}] * count}
    found = {text: policy.targets([text]) * count for text in exam.config.target}
    if exam.config.controls:
        found["random"] = drawn_targets(policy.card.schema, policy.card.attributes, count, seed)
    return found


def _about(exam: Examination, inputs: dict[str, str]) -> dict[str, object]:
    """How the evaluation was come by, as the report says it."""
    c = exam.config
    unit = "the labelled rows" if exam.rows else "all responses that are evaluated"
    counts = {s.name: s.seed + 1 for s in exam.sources}
    return {
        "title": "Evaluation of " + ", ".join(counts),
        **circumstances("evaluate"),
        "seeds": max(counts.values()),
        "prompts": len({prompt_key(row) for row in exam.prompts}),
        "unit": "the logs" if exam.rows else unit,
        "notes": [
            *([f"Rewards are in standard deviations of {unit}, whose mean is 0."] if exam.gold else []),
            "Intervals are 95 %, bootstrapped over prompts" + (" and seeds." if max(counts.values()) > 1 else " only."),
        ],
        "budget": None,
        "commands": [f"steer evaluate --config {c.output}/config.json --output NEW"],
        "hashes": inputs,
        "failures": [],
    }
