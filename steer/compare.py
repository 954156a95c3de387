"""Methods x seeds on one split, one base and one budget, judged by a scorer that training never saw; the report."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from steer import report
from steer.batch import Sequence_, plain_ids, prompt_text
from steer.config import CompareConfig, TrainConfig
from steer.errors import SteerError
from steer.evaluate.controllability import correlation
from steer.evaluate.systems import Answers, Judge, dial, difference, summary
from steer.generate import Job, Sampling, answer, condition_text, held_out_prompts, targets
from steer.label import Scorer, load_scorer
from steer.options import resolve
from steer.policy import Policy, ResponseLogps, load
from steer.rows import Row, read_all, write
from steer.run import Run, fingerprint, read_json
from steer.schema import AttributeSchema, factorial
from steer.train import beside, chosen, response_sums, train

PERMUTED = "conditional, permuted labels"


@dataclass(frozen=True)
class Entry:
    """One method as the user wrote it, `rwr:beta=0.5`, split into its parts."""

    spec: str
    method: str
    settings: tuple[str, ...]
    template: str = "tags"
    permuted: bool = False

    @staticmethod
    def of(spec: str) -> Entry:
        """Parse and check; `template=` is the condition's, everything else a setting of the method."""
        name, _, rest = spec.partition(":")
        parts = [p for p in rest.split(",") if p]
        template = next((p.removeprefix("template=") for p in parts if p.startswith("template=")), "tags")
        settings = tuple(p for p in parts if not p.startswith("template="))
        chosen(name, settings)
        return Entry(spec, name, settings, template)

    @property
    def slug(self) -> str:
        """Folder name."""
        text = PERMUTED if self.permuted else self.spec
        return "".join(c if c.isalnum() or c in ".-=" else "-" for c in text.replace(", ", "-"))


@dataclass
class Comparison:
    """All that the runs share."""

    config: CompareConfig
    folder: Path
    failures: list[dict[str, str]] = field(default_factory=list)

    @cached_property
    def schema(self) -> AttributeSchema:
        """Of the labelled rows."""
        return AttributeSchema.load(beside(self.config.rows, "schema.json"))

    @cached_property
    def rows(self) -> list[Row]:
        """All labelled rows."""
        return read_all(self.config.rows)

    @cached_property
    def proxy(self) -> Scorer:
        """The scorer that training may see."""
        spec = self.config.proxy or str(read_json(beside(self.config.rows, "done.json")).get("spec", ""))
        return _fitting(load_scorer(spec or "human"), self.schema)

    @cached_property
    def gold(self) -> Scorer:
        """The scorer that only evaluation may see."""
        return _fitting(load_scorer(self.config.gold), self.schema) if self.config.gold else self.proxy

    @cached_property
    def settings(self) -> TrainConfig:
        """What every method is trained with: one budget of optimizer steps, whatever share of the rows it uses."""
        c = self.config
        flags = {"rows": c.rows, "model": c.model, "output": "-"}
        settings = resolve(TrainConfig, flags, c.train or None)
        if settings.max_steps:
            return settings
        count = sum(row["split"] == "train" for row in self.rows)
        steps = max(1, round(settings.num_train_epochs * -(-count // settings.batch_size)))
        return replace(settings, max_steps=steps)

    @cached_property
    def prompts(self) -> list[Row]:
        """Held-out prompts that every system answers."""
        found = held_out_prompts(self.config.rows, self.settings.held_out, self.settings.seed, self.config.prompts)
        if not found:
            raise SteerError(
                f"{self.config.rows}: has no held-out prompts to compare on. Label with --held-out above 0."
            )
        return found

    def scored(self, rows: Sequence[Row]) -> Answers:
        """Both scorers on responses."""
        own = self.schema.own
        return Answers(rows, self.gold.score(rows, own), self.proxy.score(rows, own))

    @cached_property
    def base(self) -> tuple[Policy, ResponseLogps]:
        """The reference: the base model, for log-probs on the unconditioned prompt."""
        policy = load(self.config.model, dtype=self.settings.dtype, trust_remote_code=self.settings.trust_remote_code)
        return policy, ResponseLogps(policy.model.eval())


def _fitting(scorer: Scorer, schema: AttributeSchema) -> Scorer:
    missing = [n for n in schema.own if n not in scorer.attributes]
    if missing:
        raise SteerError(f"scorer {scorer.id}: cannot judge new responses on {', '.join(missing)}. Name another one.")
    return scorer


def compare(config: CompareConfig) -> str:
    """Run what is missing, then judge everything; the table and the path of the report."""
    entries = [Entry.of(spec) for spec in config.methods]
    inputs = {
        "rows": fingerprint(config.rows),
        "model": fingerprint(config.model) if Path(config.model).exists() else "",
    }
    run = Run(config.output, config, inputs)
    if run.done:
        return str(run.done["summary"])
    if len(set(config.methods)) < len(entries):
        raise SteerError("--method: the same method is given twice.")
    shared = Comparison(config, run.folder)
    _ = shared.proxy, shared.gold, shared.prompts
    run.start()
    answers: dict[tuple[str, str], list[Answers]] = {}
    facts: dict[str, dict[str, Any]] = {}
    grids: dict[str, list[Answers]] = {}
    if config.controls:
        entries.append(replace(Entry.of("conditional"), permuted=True))
    for seed in range(config.seeds):
        done = _attempt(shared, f"base, seed {seed}", partial(_base, shared, seed))
        if done is not None:
            answers.setdefault(("base", ""), []).append(done)
        for entry in entries:
            found = _attempt(shared, f"{entry.slug}, seed {seed}", partial(_one, shared, entry, seed))
            if found is None:
                continue
            facts[entry.slug] = found[0]
            for name, result in found[1].items():
                answers.setdefault((entry.slug, name), []).append(result)
            if found[2] is not None:
                grids.setdefault(entry.slug, []).append(found[2])
    result = _result(shared, entries, answers, facts, grids)
    page = report.write(result, run.folder)
    lost = f" {len(shared.failures)} runs failed; the report says why." if shared.failures else ""
    text = (
        f"{report.table(result)}\ncompare: {len(entries)} methods x {config.seeds} seeds, {len(shared.prompts)} held-out "
        f"prompts.{lost} Report: {page}"
    )
    return run.finish(text, failures=len(shared.failures))


def _attempt(shared: Comparison, name: str, work: Callable[[], Any]) -> Any:
    """One failed run does not lose the others."""
    try:
        return work()
    except SteerError as error:
        click.echo(f"{name}: {error}", err=True)
        shared.failures.append({"name": name, "error": str(error)})
        return None


def _one(shared: Comparison, entry: Entry, seed: int) -> tuple[dict[str, Any], dict[str, Answers], Answers | None]:
    """Train one method under one seed and answer: done.json of the training, answers per target, the grid."""
    config, folder = shared.config, shared.folder / "runs" / f"{entry.slug}-seed{seed}"
    settings = replace(
        shared.settings,
        rows=_permuted(shared) if entry.permuted else config.rows,
        output=str(folder / "policy"),
        method=entry.method,
        set=entry.settings,
        template=entry.template,
        seed=seed,
    )
    click.echo(f"[seed {seed}] {train(settings)}", err=True)
    policy = load(str(folder / "policy"), dtype=settings.dtype, trust_remote_code=settings.trust_remote_code)
    assert policy.card is not None
    facts: dict[str, Any] = read_json(folder / "policy" / "done.json")
    names = policy.card.attributes
    asked = [t for t in config.targets if _names(t) <= set(names)] if names else [""]
    found = {}
    for text in [] if entry.permuted else asked:
        (aim,) = targets(policy, [text or "none"])
        drawn = _answers(shared, policy, [Job(p, aim) for p in shared.prompts], folder / _slug(text), seed)
        found[text] = drawn
    grid = None
    own = tuple(n for n in names if n in shared.schema.own)
    if own and config.grid:
        aims = factorial(shared.schema, own, config.grid, seed)
        jobs = [Job(shared.prompts[i % len(shared.prompts)], aim) for i, aim in enumerate(aims)]
        grid = _answers(shared, policy, jobs, folder / "grid", seed)
    return facts, found, grid


def _names(target: str) -> set[str]:
    return {part.partition("=")[0] for part in target.replace(",", " ").split() if "=" in part}


def _slug(text: str) -> str:
    return "answers-" + ("".join(c if c.isalnum() or c in "=-" else "-" for c in text) or "plain")


def _base(shared: Comparison, seed: int) -> Answers:
    jobs = [Job(p, {}) for p in shared.prompts]
    return _answers(shared, shared.base[0], jobs, shared.folder / "runs" / f"base-seed{seed}", seed)


def _answers(shared: Comparison, policy: Policy, jobs: list[Job], folder: Path, seed: int) -> Answers:
    """Responses with their log-probs under policy and reference, written once."""
    path = folder / "answers.jsonl"
    if not path.is_file():
        c = shared.config
        sampling = Sampling(c.temperature, 1.0, c.max_new_tokens, c.batch_size, seed)
        rows = answer(policy, jobs, sampling, folder, shared.schema, folder.name)
        own = _log_probs(shared, policy, ResponseLogps(policy.model.eval()), rows, conditioned=True)
        ref = _log_probs(shared, *shared.base, rows, conditioned=False)
        write(path, ({**row, "logp": a, "ref_logp": b} for row, a, b in zip(rows, own, ref)))
    return shared.scored([json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()])


def _log_probs(
    shared: Comparison, policy: Policy, module: ResponseLogps, rows: Sequence[Row], *, conditioned: bool
) -> list[float]:
    tokenizer = policy.tokenizer
    texts = [prompt_text(row["prompt"], tokenizer) for row in rows]
    conditions = [condition_text(policy, row["target"]) if conditioned else "" for row in rows]
    prompts, marks, responses = (plain_ids(t, tokenizer) for t in (texts, conditions, [r["response"] for r in rows]))
    sequences = [
        Sequence_(p + (m if c else []), [*r, tokenizer.eos_token_id])
        for p, m, c, r in zip(prompts, marks, conditions, responses)
    ]
    device = next(policy.model.parameters()).device
    return response_sums(module, sequences, tokenizer.pad_token_id, shared.settings.micro_batch_tokens, device)


def _permuted(shared: Comparison) -> str:
    """The rows with the levels of the training split shuffled between rows: the negative control."""
    folder = shared.folder / "permuted"
    if not (folder / "schema.json").is_file():
        at = [i for i, row in enumerate(shared.rows) if row["split"] == "train"]
        order = np.random.default_rng(0).permutation(at)
        levels = {i: shared.rows[j]["levels"] for i, j in zip(at, order)}
        write(
            folder / "rows.jsonl",
            ({**row, "levels": levels.get(i, row["levels"])} for i, row in enumerate(shared.rows)),
        )
        shared.schema.save(folder / "schema.json")
    return str(folder)


def _result(
    shared: Comparison,
    entries: Sequence[Entry],
    answers: dict[tuple[str, str], list[Answers]],
    facts: dict[str, dict[str, Any]],
    grids: dict[str, list[Answers]],
) -> dict[str, Any]:
    """The report as JSON; its shape is documented in `steer.report`."""
    config, schema = shared.config, shared.schema
    logs = shared.scored([r for r in shared.rows if r["split"] == "train"])
    gold, proxy = Judge.of(schema, logs.gold), Judge.of(schema, logs.proxy)
    spans = gold.spans(logs.gold)
    keys = {row["prompt"][-1]["content"] for row in shared.prompts}
    held = shared.scored([r for r in shared.rows if r["split"] == "test" and r["prompt"][-1]["content"] in keys])
    systems = [
        {**_empty("logs", "logged responses"), **summary([held], gold, proxy, schema.own, config.resamples), "kl": None}
    ]
    baseline = answers.get(("mle", ""))
    for (slug, target), found in answers.items():
        entry = next((e for e in entries if e.slug == slug), None)
        system = _empty(
            f"{entry.spec if entry else slug}{f' @ {target}' if target else ''}", entry.method if entry else slug
        )
        system |= summary(found, gold, proxy, schema.own, config.resamples)
        if entry:
            done = facts[slug]
            system |= {"settings": ", ".join(entry.settings), "target": found[0].rows[0].get("asked", "")}
            system |= {"ess": done["ess"], "train_tokens": done["tokens"], "seconds": round(done["seconds"], 1)}
        if baseline and found is not baseline and len(found) == len(baseline):
            system["difference"] = difference(found, baseline, gold, config.resamples).json()
        systems.append(system)
    dials = [
        {
            "name": slug_name(slug, entries),
            "targets": len(found[0].rows),
            "result": dial(found, gold, _conditioned(schema, found), spans, min(config.resamples, 1000)),
        }
        for slug, found in grids.items()
    ]
    return {
        "title": "Steering compared with its alternatives",
        **_circumstances(shared),
        "behaviour": {
            "reward_sd_raw": gold.sd,
            "names": list(schema.own),
            "attributes": {
                n: {"mean": float(np.nanmean(logs.gold[:, j])), "sd": float(np.nanstd(logs.gold[:, j]))}
                for j, n in enumerate(schema.own)
            },
            "correlation": correlation(logs.gold).tolist(),
        },
        "systems": systems,
        "dials": dials,
        "samples": _samples(shared, entries, answers),
        "iterate": None,
        "failures": shared.failures,
    }


def slug_name(slug: str, entries: Sequence[Entry]) -> str:
    """The name that a user gave to a run."""
    entry = next(e for e in entries if e.slug == slug)
    return PERMUTED if entry.permuted else entry.spec


def _conditioned(schema: AttributeSchema, found: Sequence[Answers]) -> list[str]:
    return [n for n in schema.own if any(n in row["target"] for row in found[0].rows)]


def _empty(name: str, method: str) -> dict[str, Any]:
    return {
        "name": name, "method": method, "settings": "", "target": "", "difference": None, "kl": None, "ess": None,
        "train_tokens": 0, "seconds": 0.0,
    }  # fmt: skip


def _circumstances(shared: Comparison) -> dict[str, Any]:
    config, settings = shared.config, shared.settings
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False, cwd=Path(__file__).parent
    ).stdout.strip()
    model = shared.base[0].model
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    return {
        "command": "steer " + " ".join(sys.argv[1:]) if sys.argv[0].endswith("steer") else "steer compare",
        "commit": commit or "unknown",
        "machine": f"{platform.machine()}, {device}, Python {platform.python_version()}, torch {torch.__version__}",
        "created": date.today().isoformat(),
        "seeds": config.seeds,
        "prompts": len(shared.prompts),
        "gold": shared.gold.id,
        "proxy": shared.proxy.id,
        "gold_is_proxy": shared.gold is shared.proxy,
        "notes": [
            "Gold and proxy reward are in standard deviations of the logs, whose mean is 0.",
            "Intervals are 95 %, bootstrapped over prompts" + (" and seeds." if config.seeds > 1 else "; one seed."),
        ],
        "budget": {
            "rows": sum(r["split"] == "train" for r in shared.rows),
            "steps": settings.max_steps,
            "batch_size": settings.batch_size,
            "model": config.model,
            "parameters": sum(p.numel() for p in model.parameters()),
        },
        "commands": [f"steer compare --config {config.output}/config.json --output NEW"],
    }


def _samples(
    shared: Comparison, entries: Sequence[Entry], answers: dict[tuple[str, str], list[Answers]], count: int = 3
) -> list[dict[str, Any]]:
    """The first prompts as every system answered them."""
    out = []
    for i in range(min(count, len(shared.prompts))):
        texts = []
        for (slug, target), found in answers.items():
            row, scores = found[0].rows[i], found[0].gold[i]
            name = (slug_name(slug, entries) if slug != "base" else slug) + (
                f" @ {row.get('asked') or target}" if target else ""
            )
            known = {n: round(float(s), 2) for n, s in zip(shared.schema.own, scores) if not np.isnan(s)}
            texts.append({"name": name, "text": row["response"], "scores": known})
        out.append({"prompt": shared.prompts[i]["prompt"][-1]["content"], "answers": texts})
    return out
