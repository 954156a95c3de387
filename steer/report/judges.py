"""Win-rates by annotator, agreement of the proxy with gold, and the reward that the prompt alone predicts."""

from __future__ import annotations

from steer.report.cells import Report, cell, excludes, number, percent
from steer.report.page import Block, Table

ENOUGH = 0.9  # of the comparisons: an annotator who answered fewer is not believed


def preferred(report: Report) -> list[Block]:
    """Rankings and win-rates of every annotator, and how far they agree."""
    found = report.get("win_rates")
    if not found:
        return []
    first = found["baseline"]
    blocks: list[Block] = [
        f"Win-rate against {first} in per cent: wins and half of the ties, with its interval over prompts and seeds "
        "and its standard error. At equal length: read off a logistic fit where both are equally long; it says nothing "
        "where length is itself asked for, and is a guess where it is marked: hardly an answer there is as short, or "
        "as long, as the other. Strength: Bradley-Terry over all pairs, in logits, mean 0. These two have "
        "intervals over prompts only."
    ]
    for one in found["annotators"]:
        ranked = sorted(one["systems"], key=lambda s: -((s["strength"] or {}).get("mean") or 0.0))
        rows, strong = [], set()
        for i, s in enumerate(ranked):
            rate, level = (_hundred(s.get(key)) for key in ("win_rate", "length_controlled"))
            error = number(100 * s["standard_error"], 1) if s.get("standard_error") is not None else "-"
            tally = f"{s['wins']}/{s['ties']}/{s['losses']}" if "wins" in s else "-"
            beyond = " (outside the data)" if s.get("outside") else ""
            row = [s["name"], _place(s["place"]), cell(s["strength"]), cell(rate, 1), error, cell(level, 1) + beyond]
            rows.append([*row, tally])
            if (
                answered(one) >= ENOUGH
                and rate
                and rate["low"] is not None
                and excludes(rate["low"] - 50, rate["high"] - 50)
            ):
                strong.add((i, 3))
        turned = "" if one["turned"] is None else f", {percent(one['turned'])} % of them changed with the order"
        silent = f", {one['unanswered']:,} {_unanswered(one)} and left out" if one["unanswered"] else ""
        head = ("System", "Place", "Strength", "Win-rate, %", "Standard error", "At equal length, %", "Won/tied/lost")
        caption = f"{one['annotator']}: {one['comparisons']:,} comparisons{turned}{silent}. "
        caption += "Bold: leaves out 50 %." if answered(one) >= ENOUGH else "Too few answered for anything to be bold."
        blocks.append(Table(caption, head, rows, frozenset(strong)))
    agreed = [[" and ".join(a["annotators"]), cell(a["agreement"]), number(a["kappa"])] for a in found["agreement"]]
    if agreed:
        caption = "How far annotators agree on the same comparisons: 1 always, and kappa beyond chance."
        blocks.append(Table(caption, ("Annotators", "Agreement", "Kappa"), agreed))
    return blocks


def answered(annotator: Report) -> float:
    """The share of an annotator's comparisons that were answered."""
    count = annotator["comparisons"] + annotator["unanswered"]
    return annotator["comparisons"] / count if count else 0.0


def silent(report: Report) -> list[str]:
    """Who left so many comparisons unanswered that what is left is a selection."""
    found = (report.get("win_rates") or {}).get("annotators", [])
    return [
        f"{one['annotator']}: answered {one['comparisons']:,} of {one['comparisons'] + one['unanswered']:,} "
        f"comparisons ({percent(answered(one))} %); the others, {_unanswered(one)}, are left out, so its win-rates are "
        "of a selection."
        for one in found
        if answered(one) < ENOUGH
    ]


def _unanswered(annotator: Report) -> str:
    """Say how comparisons stayed unanswered; an annotator asked in both orders must answer both."""
    return "unanswered" if annotator["turned"] is None else "unanswered in one order or in both"


def rates(report: Report, but: str = "") -> list[str]:
    """Win-rates of every annotator but one against the baseline, a line each, for the terminal."""
    found = report.get("win_rates") or {"annotators": []}
    lines = []
    for one in (x for x in found["annotators"] if x["annotator"] != but):
        lines.append(f"Win-rate against {found['baseline']} by {one['annotator']}, %:")
        for s in one["systems"][1:]:
            tally = f"{s['wins']}/{s['ties']}/{s['losses']} won/tied/lost"
            level = f"at equal length {cell(_hundred(s['length_controlled']), 1)}"
            beyond = " (outside the data)" if s.get("outside") else ""
            lines.append(f"  {s['name']}: {cell(_hundred(s['win_rate']), 1)}, {level}{beyond}, {tally}")
    return lines


def _place(place: Report | None) -> str:
    """A place with the places that resamples give it."""
    if place is None or place["mean"] is None:
        return "-"
    return cell(place, 0) if place["low"] is not None else f"{place['mean']:.0f}"


def _hundred(interval: Report | None) -> Report | None:
    if interval is None:
        return None
    return {k: v if v is None or k == "n" else 100 * v for k, v in interval.items()}


def scorer(report: Report) -> list[Block]:
    """The proxy against gold: on held-out logs per attribute, on fresh responses per system."""
    blocks: list[Block] = []
    found = report.get("scorer")
    if found:
        head = ("Attribute", "MAE", "of mean", "RMSE", "Pearson", "Spearman", "QWK", "Pairs in order", "With length")
        keys = ("mae", "baseline_mae", "rmse", "pearson", "spearman", "qwk", "pairwise", "spearman_with_length")
        rows = [[a["attribute"], *(number(a[k]) for k in keys)] for a in found["attributes"]]
        blocks.append(Table(f"The proxy against gold on {found['rows']:,} logged responses, held out.", head, rows))
        bins = max((len(a["calibration"]) for a in found["attributes"]), default=0)
        lines = [
            [a["attribute"], *(f"{number(b['predicted'])} / {number(b['truth'])}" for b in a["calibration"])]
            for a in found["attributes"]
        ]
        lines = [line + ["-"] * (1 + bins - len(line)) for line in lines]
        parts = ("Attribute", *(f"Fifth {i}" for i in range(1, bins + 1)))
        blocks.append(Table("Calibration: mean of the proxy / of gold, by fifths of the proxy.", parts, lines))
    systems = [s for s in report["systems"] if s.get("fresh")]
    if systems and not report["gold_is_proxy"]:
        rows = [[s["name"], number(s["fresh"]["spearman"]), number(s["fresh"]["too_much"])] for s in systems]
        caption = "The proxy on what each system writes: one that was outwitted ranks badly, or thinks too much of it."
        blocks.append(Table(caption, ("System", "Spearman with gold reward", "Proxy less gold, sd"), rows))
    return blocks


def prompt_only(report: Report) -> list[Block]:
    """Say how much of the reward the prompt alone predicts."""
    found = report.get("prompt_only")
    if not found:
        return []
    share = max(0.0, found["pearson"]) ** 2
    return [
        f"The prompt alone, read by a ridge on its words, predicts gold reward with Pearson {number(found['pearson'])} "
        f"({percent(share)} % of its variance, {found['rows']:,} rows, out of fold): no method can earn that part."
    ]
