"""Answers of all systems -> the comparison as JSON, which `steer.report` turns into pages."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from steer.evaluate.controllability import correlation
from steer.evaluate.systems import Answers, Judge, dial, difference, summary
from steer.schema import AttributeSchema

PERMUTED = "conditional, permuted labels"

if TYPE_CHECKING:
    from steer.compare import Comparison, Entry


def result(
    shared: Comparison,
    entries: Sequence[Entry],
    answers: dict[tuple[str, str], list[Answers]],
    facts: dict[str, dict[str, Any]],
    grids: dict[str, list[Answers]],
) -> dict[str, Any]:
    """What `steer.report` writes, from the answers of all systems."""
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
