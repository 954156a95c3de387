"""How far one scorer can stand for another: the proxy against gold, per attribute and on what each system writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from attribute_models import metrics
from attribute_models.countable import length
from steer.evaluation.systems import Answers, RewardScale

BINS = 5  # of the calibration: equal counts


def report(logs: Answers, names: Sequence[str]) -> list[dict[str, Any]]:
    """Proxy against gold on responses, one dict per attribute: what `attribute_models.metrics.report` says, and

    `pairwise`, the share of pairs of a prompt's responses that the proxy puts in gold's order (ties of gold left out,
    of the proxy half), and `calibration`, mean gold score in fifths of the proxy's score.
    """
    lengths = [length(row["response"]) for row in logs.rows]
    found = metrics.report(logs.gold, logs.proxy, names, lengths, groups=logs.prompts)
    for j, line in enumerate(found):
        line["pairwise"] = pairwise(logs.gold[:, j], logs.proxy[:, j], logs.prompts)
        line["calibration"] = calibration(logs.gold[:, j], logs.proxy[:, j])
    return found


def pairwise(truth: Any, predicted: Any, prompts: Any) -> float | None:
    """Share of pairs within a prompt in the right order; None where no prompt has two responses that differ."""
    right, count = 0.0, 0
    for key in np.unique(prompts):
        at = np.flatnonzero((prompts == key) & ~np.isnan(truth) & ~np.isnan(predicted))
        i, j = np.triu_indices(len(at), 1)
        want, got = (np.sign(x[at[i]] - x[at[j]]) for x in (truth, predicted))
        kept = want != 0
        right += float((0.5 + 0.5 * (want * got)[kept]).sum())
        count += int(kept.sum())
    return right / count if count else None


def calibration(truth: Any, predicted: Any) -> list[dict[str, float | int]]:
    """Per bin of the prediction (equal counts): mean prediction, mean truth, rows."""
    known = ~(np.isnan(truth) | np.isnan(predicted))
    order = np.flatnonzero(known)[np.argsort(predicted[known], kind="stable")]
    return [
        {"predicted": float(predicted[part].mean()), "truth": float(truth[part].mean()), "n": len(part)}
        for part in np.array_split(order, BINS)
        if len(part)
    ]


def fresh(seeds: Sequence[Answers], gold: RewardScale, proxy: RewardScale) -> dict[str, float | None]:
    """The proxy on what one system writes: Spearman with gold reward, and how much too much it thinks of it, in sd."""
    true = np.concatenate([gold.reward(a.gold) for a in seeds])
    seen = np.concatenate([proxy.reward(a.proxy) for a in seeds])
    known = ~(np.isnan(true) | np.isnan(seen))
    gap = float((seen - true)[known].mean()) if known.any() else None
    return {"spearman": metrics.spearman(true[known], seen[known]), "too_much": gap}
