"""Win-rates by annotator, agreement of the proxy with gold, and the reward that the prompt alone predicts."""

from __future__ import annotations

from steer.report.cells import Report, cell, excludes, number, percent
from steer.report.page import Block, Table

ENOUGH = 0.9  # share of the comparisons that an annotator must answer for its win-rates to be claimed


def preferred(report: Report) -> list[Block]:
    """Rankings and win-rates of every annotator, and how far they agree."""
    result = report.get("win_rates")
    if not result:
        return []
    blocks: list[Block] = [
        f"Win-rate against {result['baseline']} in per cent: wins and half of the ties, with its interval over prompts "
        "and seeds and its standard error over prompts. Equal answers are a tie that nobody is asked about. At equal "
        "length: read off a logistic fit where both are equally long; it means nothing where length is itself asked "
        "for, and is an extrapolation where it is marked: hardly an answer there is as short, or as long, as the "
        "other. Strength: Bradley-Terry over all pairs, in logits, mean 0. These two have intervals over prompts only."
    ]
    for annotator in result["annotators"]:
        enough = answered(annotator) >= ENOUGH
        ranked = sorted(annotator["systems"], key=lambda s: -((s["strength"] or {}).get("mean") or 0.0))
        rows, strong = [], set()
        for i, s in enumerate(ranked):
            rate, level = (_hundred(s.get(key)) for key in ("win_rate", "length_controlled"))
            error = number(100 * s["standard_error"], 1) if s.get("standard_error") is not None else "-"
            row = [s["name"], _place(s["place"]), cell(s["strength"]), cell(rate, 1), error]
            rows.append([*row, cell(level, 1) + _outside(s), _tally(s) if "wins" in s else "-"])
            if enough and excludes(rate, 50):
                strong.add((i, 3))
        turned, missing, alike = annotator["turned"], annotator["unanswered"], annotator.get("alike", 0)
        order = "" if turned is None else f", {percent(turned)} % of them changed with the order"
        skipped = f", {missing:,} {_unanswered(annotator)} and excluded" if missing else ""
        skipped += f", {alike:,} alike, not asked" if alike else ""
        head = ("System", "Place", "Strength", "Win-rate, %", "Standard error", "At equal length, %", "Won/tied/lost")
        caption = f"{annotator['annotator']}: {annotator['comparisons']:,} comparisons{order}{skipped}. "
        caption += "Bold: excludes 50 %." if enough else "Too few answered for anything to be bold."
        blocks.append(Table(caption, head, rows, frozenset(strong)))
    agreed = [[" and ".join(a["annotators"]), cell(a["agreement"]), number(a["kappa"])] for a in result["agreement"]]
    if agreed:
        caption = "Agreement of annotators on the same comparisons: 1 is always; kappa is beyond chance."
        blocks.append(Table(caption, ("Annotators", "Agreement", "Kappa"), agreed))
    return blocks


def answered(annotator: Report) -> float:
    """The share of what an annotator was asked that was answered; all of nothing."""
    count = annotator["comparisons"] + annotator["unanswered"]
    return annotator["comparisons"] / count if count else 1.0


def silent(report: Report) -> list[str]:
    """Warnings about annotators who answered too few comparisons for their win-rates to be more than a selection's."""
    return [
        f"{a['annotator']}: answered {a['comparisons']:,} of {a['comparisons'] + a['unanswered']:,} "
        f"comparisons ({percent(answered(a))} %); the others, {_unanswered(a)}, are excluded, so its win-rates are "
        "of a selection."
        for a in (report.get("win_rates") or {}).get("annotators", [])
        if answered(a) < ENOUGH
    ]


def _unanswered(annotator: Report) -> str:
    """Describe unanswered comparisons; an annotator asked in both orders must answer both."""
    return "unanswered" if annotator["turned"] is None else "unanswered in one order or in both"


def rates(report: Report, but: str = "") -> list[str]:
    """Win-rates of every annotator but one against the baseline, a line each, for the terminal."""
    result = report.get("win_rates") or {"annotators": []}
    scope = " (at equal length: intervals over prompts only)" if report["seeds"] > 1 else ""
    lines = []
    for annotator in (a for a in result["annotators"] if a["annotator"] != but):
        lines.append(f"Win-rate against {result['baseline']} by {annotator['annotator']}, %{scope}:")
        for s in annotator["systems"][1:]:
            level = f"at equal length {cell(_hundred(s['length_controlled']), 1)}{_outside(s)}"
            lines.append(f"  {s['name']}: {cell(_hundred(s['win_rate']), 1)}, {level}, {_tally(s)} won/tied/lost")
    return lines


def _tally(system: Report) -> str:
    """Wins, ties and losses, and how many of the ties nobody was asked about, which reports of old do not say."""
    alike = f" ({system['alike']:,} alike)" if system.get("alike") else ""
    return f"{system['wins']}/{system['ties']}/{system['losses']}{alike}"


def _outside(system: Report) -> str:
    return " (outside the data)" if system.get("outside") else ""


def _place(place: Report | None) -> str:
    """Format a place with the interval of places over resamples."""
    if place is None or place["mean"] is None:
        return "-"
    return cell(place, 0) if place["low"] is not None else f"{place['mean']:.0f}"


def _hundred(interval: Report | None) -> Report | None:
    """Convert an interval of shares to per cent."""
    if interval is None:
        return None
    return {k: v if v is None or k == "n" else 100 * v for k, v in interval.items()}


def scorer(report: Report) -> list[Block]:
    """The proxy against gold: on logged responses per attribute, on fresh ones per system."""
    blocks: list[Block] = []
    if result := report.get("scorer"):
        attributes = result["attributes"]
        head = ("Attribute", "MAE", "of mean", "RMSE", "Pearson", "Spearman", "QWK", "Pairs in order", "With length")
        keys = ("mae", "baseline_mae", "rmse", "pearson", "spearman", "qwk", "pairwise", "spearman_with_length")
        rows = [[a["attribute"], *(number(a[k]) for k in keys)] for a in attributes]
        seen = ", held out" if result.get("held_out") else "; no split says whether training saw them"
        blocks.append(Table(f"The proxy against gold on {result['rows']:,} logged responses{seen}.", head, rows))
        bins = max((len(a["calibration"]) for a in attributes), default=0)
        lines = [
            [a["attribute"], *(f"{number(b['predicted'])} / {number(b['truth'])}" for b in a["calibration"])]
            for a in attributes
        ]
        lines = [line + ["-"] * (1 + bins - len(line)) for line in lines]
        parts = ("Attribute", *(f"Fifth {i}" for i in range(1, bins + 1)))
        blocks.append(Table("Calibration: mean of the proxy / of gold, by fifths of the proxy.", parts, lines))
    systems = [s for s in report["systems"] if s.get("fresh")]
    if systems and not report["gold_is_proxy"]:
        rows = [[s["name"], number(s["fresh"]["spearman"]), number(s["fresh"]["too_much"])] for s in systems]
        caption = "The proxy on what each system writes: an exploited proxy ranks badly, or overrates it."
        blocks.append(Table(caption, ("System", "Spearman with gold reward", "Proxy less gold, sd"), rows))
    return blocks


def prompt_only(report: Report) -> list[Block]:
    """Sentence on how much of the reward the prompt alone predicts."""
    result = report.get("prompt_only")
    if not result:
        return []
    share = max(0.0, result["pearson"]) ** 2
    return [
        f"A ridge regression on the prompt's words alone predicts gold reward with Pearson {number(result['pearson'])} "
        f"({percent(share)} % of its variance, {result['rows']:,} rows, out of fold): no method can earn that part."
    ]
