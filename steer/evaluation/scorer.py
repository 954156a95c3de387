"""Agreement of the proxy with gold, per attribute on logs and per system on its responses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from attribute_models import metrics
from attribute_models.countable import length
from steer.evaluation.systems import Answers, RewardScale
from steer.labelling.scorer import readable

BINS = 5  # of the calibration: equal counts


def report(logs: Answers, names: Sequence[str]) -> list[dict[str, Any]]:
    """Compare the proxy with gold on responses, one dict per attribute.

    Figures of `attribute_models.metrics.report`; `pairwise`, the share of pairs of a prompt's responses that the proxy
    orders as gold does (ties of gold skipped, of the proxy half); `calibration`, mean gold in fifths of the proxy.
    """
    lengths = [length(readable(row)["response"]) for row in logs.rows]
    lines = metrics.report(logs.gold, logs.proxy, names, lengths, groups=logs.prompts)
    for j, line in enumerate(lines):
        line["pairwise"] = pairwise(logs.gold[:, j], logs.proxy[:, j], logs.prompts)
        line["calibration"] = calibration(logs.gold[:, j], logs.proxy[:, j])
    return lines


def pairwise(truth: Any, predicted: Any, prompts: Any) -> float | None:
    """Share of pairs within a prompt in the right order; None where no prompt has two responses that differ."""
    right, count = 0.0, 0
    for key in np.unique(prompts):
        at = np.flatnonzero((prompts == key) & ~np.isnan(truth) & ~np.isnan(predicted))
        i, j = np.triu_indices(len(at), 1)
        true, other = (np.sign(x[at[i]] - x[at[j]]) for x in (truth, predicted))
        untied = true != 0
        right += float((0.5 + 0.5 * (true * other)[untied]).sum())
        count += int(untied.sum())
    return right / count if count else None


def calibration(truth: Any, predicted: Any) -> list[dict[str, float | int]]:
    """Calibration by bins of the prediction (equal counts): mean prediction, mean truth, rows."""
    defined = ~(np.isnan(truth) | np.isnan(predicted))
    order = np.flatnonzero(defined)[np.argsort(predicted[defined], kind="stable")]
    return [
        {"predicted": float(predicted[part].mean()), "truth": float(truth[part].mean()), "n": len(part)}
        for part in np.array_split(order, BINS)
        if len(part)
    ]


def fresh(seeds: Sequence[Answers], gold: RewardScale, proxy: RewardScale) -> dict[str, float | None]:
    """Spearman of proxy with gold reward on the responses of a system, and `too_much`: mean proxy less gold, in sd."""
    truth = np.concatenate([gold.reward(a.gold) for a in seeds])
    predicted = np.concatenate([proxy.reward(a.proxy) for a in seeds])
    defined = ~(np.isnan(truth) | np.isnan(predicted))
    excess = float((predicted - truth)[defined].mean()) if defined.any() else None
    return {"spearman": metrics.spearman(truth[defined], predicted[defined]), "too_much": excess}
