"""Tables and charts that compare all systems: rewards, frontiers, texture of the text, cost."""

from __future__ import annotations

from collections.abc import Sequence

from steer.report import page, plots
from steer.report.cells import (
    UNDEFINED,
    Report,
    baseline,
    cell,
    claimed,
    count,
    counted,
    is_control,
    listed,
    number,
    one_seed,
    percent,
    ranked,
    rate,
    signed,
    verdict,
)
from steer.report.dials import gained, sentence
from steer.report.optimised import optimised
from steer.report.page import Block, Table

UNITS = {  # what the costs of frontiers count
    "kl": "KL, nats",
    "words": "words of an answer",
    "seconds": "seconds of training",
    "tokens": "tokens trained on and drawn in training",
    "answer_tokens": "tokens read and drawn for an answer",
}


def headline(report: Report) -> list[str]:
    """Summarise the comparison in sentences; a difference is claimed only if its corrected interval excludes 0."""
    baseline = report["baseline"]
    if not report["gold"]:
        return ["No gold scorer was named (--gold), so there are win-rates and no rewards."]
    pairs = [(s["name"], s["difference"]) for s in ranked(report) if s["difference"]]
    pairs = [(name, d) for name, d in pairs if None not in (d["mean"], d["low"], d["high"])]
    open_, pairs = [p for p in pairs if one_seed(p[1])], [p for p in pairs if not one_seed(p[1])]
    above = [(name, d) for name, d in pairs if d["low"] > 0 and claimed(d)]
    below = [(name, d) for name, d in pairs if d["high"] < 0 and claimed(d)]
    unclear = [(name, d) for name, d in pairs if d["low"] <= 0 <= d["high"]]
    uncorrected = [(name, d) for name, d in pairs if not d["low"] <= 0 <= d["high"] and not claimed(d)]
    sentences = []
    scope = ", over prompts only (one seed)" if report["seeds"] == 1 else ""
    if above:
        (name, best), *rest = sorted(above, key=lambda pair: -pair[1]["mean"])
        sentences.append(f"{name} is {signed(best, ' sd')} above {baseline} on gold reward{scope}.")
        sentences += [f"Also above {baseline}: {listed(rest)}."] if rest else []
    elif pairs or open_:
        sentences.append(f"No system is shown to be above {baseline} on gold reward.")
    else:
        sentences.append(_unpaired(report))
    if (intended := report.get("intended") or baseline) != baseline:
        sentences.append(f"The baseline is {baseline or 'missing'}: {intended}, the intended one, has no answers.")
    unpaired = [s["name"] for s in report["systems"] if s["name"] not in (baseline, "logs", *dict(pairs + open_))]
    missing = [(s, s["generated"] - s["gold"]["n"]) for s in report["systems"] if s["gold"]["n"]]
    unscored = [f"{s['name']} ({count:,} of {s['generated']:,})" for s, count in missing if count > 0]
    lists = {
        f"Below {baseline}": listed(below),
        f"Not distinguished from {baseline}, the interval contains 0": listed(unclear),
        f"Not distinguished from {baseline} where {len(pairs)} are compared (Holm)": listed(uncorrected),
        f"Not judged, because it or {baseline} has one seed, which says nothing of others": listed(open_),
        f"Over fewer than {report['seeds']} seeds": ", ".join(_fewer(report)),
        "Answers without a gold score are excluded from its means": ", ".join(unscored),
        f"Without an interval for the difference from {baseline}": ", ".join(unpaired) if pairs or open_ else "",
    }
    sentences += [f"{text}: {names}." for text, names in lists.items() if names]
    sentences += _power([d for _, d in pairs])
    steered = [d for d in report["dials"] if not is_control(d)]
    steered.sort(key=lambda d: not d.get("less"))  # what the others are compared with is no news
    return sentences + [sentence(d) for d in steered[:1]] + gained(steered)


def _unpaired(report: Report) -> str:
    """Say why there is no difference from the baseline."""
    baseline = report["baseline"]
    if report.get("counted") == []:
        return (
            "No attribute has a better end, so there is no reward to compare; the dial does not need one. "
            '"steer label --higher NAME" or "--lower NAME" says which end is better.'
        )
    if baseline and all(s["name"] in (baseline, "logs") for s in report["systems"]):
        return f"{baseline} is the only system, so there is no difference to claim."
    return f"Nothing was paired with {baseline or 'a baseline'}, so no difference is claimed."


def _fewer(report: Report) -> list[str]:
    """Name the systems that have fewer seeds than the report, with their number."""
    return [f"{s['name']} ({s['seeds']})" for s in report["systems"] if _lacks(report, s)]


def _lacks(report: Report, system: Report) -> bool:
    """Whether a system has fewer seeds than the report; the logs have none."""
    return bool(system["name"] != "logs" and system.get("seeds", report["seeds"]) < report["seeds"])


def _power(differences: Sequence[Report]) -> list[str]:
    """Say how small a difference the comparison could have shown."""
    least = sorted(d["least"] for d in differences if d.get("least") is not None)
    if not least:
        return []
    ends = [number(least[0])] + ([number(least[-1])] if number(least[0]) != number(least[-1]) else [])
    return [
        f"It would have shown a difference of {' to '.join(ends)} sd with a chance of 80 %; smaller ones it may miss."
    ]


def compared(report: Report) -> list[Block]:
    """Table of all systems, forest plot, reward against KL and proxy, frontiers, texture, scores per attribute."""
    systems, behaviour = ranked(report), report["behaviour"]
    forest = plots.forest([(s["name"], s["gold"], s["proxy"]) for s in systems], baseline(report), report["baseline"])
    spread = [(s["name"], s["kl"] or UNDEFINED, s["gold"]) for s in systems]
    missing = [name for name, kl, gold in spread if None in (kl["mean"], gold["mean"])]
    note = f" Not drawn, because the KL is missing: {', '.join(missing)}." if missing else ""
    charts = [(forest, f"Gold reward with its 95 % interval, best first. Dashed line: {report['baseline']}.")]
    text = f"Gold reward against KL, with 95 % intervals; up and left is better. Lines: one method's settings.{note}"
    families = [s.get("family", "") for s in systems]
    charts += [(plots.scatter(spread, families), text)] if len(missing) < len(spread) else []
    charts += _against_costs(report, [s for s in systems if s["name"] != "logs"])
    charts += _against_proxy(report, systems)
    unit = report.get("unit", "the logs")
    logs = [[f"{unit}: mean", *(number(a["mean"]) for a in behaviour["attributes"].values())]]
    logs += [[f"{unit}: sd", *(number(a["sd"]) for a in behaviour["attributes"].values())]]
    scores = [[s["name"], *(cell(s["attributes"].get(n)) for n in behaviour["attributes"])] for s in systems]
    caption = "Gold score per attribute, in the attribute's own unit."
    return [
        comparison(report),
        *_choices(report),
        " ".join(report["notes"]),
        *(page.figures([chart]) for chart in charts),
        *optimised(report),
        *_frontiers(report),
        _texture(systems),
        Table(caption, ("System", *behaviour["attributes"]), scores + logs),
    ]


def _choices(report: Report) -> list[Block]:
    """Tabulate what choosing the best of several responses gains."""
    choices = report.get("choices") or []
    if not choices:
        return []
    rows = [[c["name"], signed(c["gain"]), *_told(c["gain"])] for c in choices]
    strong = frozenset((i, 1) for i, c in enumerate(choices) if claimed(c["gain"]))
    caption = (
        "What choosing gains: gold reward of the best of n by the proxy, less that of one of the same n at random. "
        "Bold: the interval excludes 0, also after Holm's correction over this table."
    )
    return [Table(caption, ("System", "Gold reward, sd", "Above 0?", "Power from, sd"), rows, strong)]


def _against_proxy(report: Report, systems: Sequence[Report]) -> list[tuple[str, str]]:
    """Chart gold against proxy reward, unless they are the same scorer."""
    scored = [s for s in systems if s["proxy"]["mean"] is not None]
    if report["gold_is_proxy"] or not scored:
        return []
    points = [(s["name"], s["proxy"], s["gold"]) for s in scored]
    chart = plots.scatter(points, [s.get("family", "") for s in scored], plots.REWARDS)
    return [(chart, "Gold against proxy reward: equal on the dashed line; below it the proxy overrates the system.")]


def _frontiers(report: Report) -> list[Block]:
    """Tabulate the frontier of each method over all its settings, for each cost."""
    measured = report.get("frontiers")
    if not measured:
        return []
    lost = ", ".join(f"{f['name']} ({f['reason']})" for f in measured.get("left_out", ()))
    left_out: list[Block] = [f"Without a frontier: {lost}."] if lost else []
    if not measured["families"]:
        return left_out
    most = measured["most"]
    families = sorted(measured["families"], key=lambda f: -((f["volumes"].get("kl") or UNDEFINED)["mean"] or 0.0))
    ends = ", ".join(f"{number(most[cost], 0 if (most[cost] or 0) >= 100 else 1)} ({u})" for cost, u in _of(most))
    caption = (
        "Frontiers: the gold reward, in sd above the logs' mean, that some setting of a method reaches within a cost, "
        "averaged over costs from 0 to twice that of the system with the highest reward (hypervolume by that cost; its "
        f"reference point is there, at a reward of 0): {ends}. Intervals are over prompts, and over repetitions. More "
        "settings reach more, and the best of several noisy means is too high: compare equally many."
    )
    rows = [
        [f["name"], str(f["points"]), *(cell(f["volumes"][cost]) for cost, _ in _of(most)), percent(f["cut_off"])]
        for f in families
    ]
    head = ("Method", "Settings", *(f"By {unit}" for _, unit in _of(most)), "Cut off, %")
    return [Table(caption, head, rows), *left_out]


def _of(most: Report) -> list[tuple[str, str]]:
    """Costs that were measured, with what they count."""
    return [(cost, unit) for cost, unit in UNITS.items() if cost in most]


def _against_costs(report: Report, systems: Sequence[Report]) -> list[tuple[str, str]]:
    """Chart gold reward against length, training time and tokens, each where systems differ in it."""
    totals = [float((s["train_tokens"] or 0) + (s.get("drawn_tokens") or 0)) for s in systems]
    costs: dict[str, list[Report]] = {
        "words": [s["words"] for s in systems],
        "seconds": [_exactly(_seconds(report, s)) for s in systems],
        "tokens": [_exactly(total) for total in totals],
        "answer_tokens": [_exactly(s.get("answer_tokens")) for s in systems],
    }
    charts = []
    for name, values in costs.items():
        points = [(s["name"], x, s["gold"]) for s, x in zip(systems, values)]
        if len({x["mean"] for x in values if x["mean"] is not None}) < 2:
            continue
        unit = UNITS[name]
        title = f"Gold reward against {unit}, one point per system"
        axes = plots.Axes(title, f"{unit} (√ scale)", "gold reward, sd", root=True)
        families = [s.get("family", "") for s in systems]
        charts.append((plots.scatter(points, families, axes), f"Gold reward against {unit}; up and left is better."))
    return charts


def _exactly(value: float | None) -> Report:
    return {**UNDEFINED, "mean": value}


def _texture(systems: Sequence[Report]) -> Table:
    """Tabulate diversity and degeneration."""
    keys = ("distinct_1", "distinct_2", "unique", "repeated_3")
    rows = [
        [s["name"], *(number(s.get(k)) for k in keys), percent(s["finished"]), percent(s["leaked"])] for s in systems
    ]
    head = ("System", "Distinct-1", "Distinct-2", "Unique per prompt", "Repeated 3-grams", "Finished, %", "Leaked, %")
    return Table(
        "Diversity and degeneration. Distinct: of all words of a seed together, at as many answers a prompt as every "
        "system has; unique: of the answers to a prompt, where it has several; both are means over seeds. The others "
        "are over the answers of all seeds.",
        head,
        rows,
    )


def comparison(report: Report) -> Table:
    """Tabulate all systems, one a row, best gold reward first."""
    first, systems, mark = report["baseline"], ranked(report), baseline(report)
    head = f"System|Gold reward, sd|Less {first or 'nothing'}|Above it?|Power from, sd|Proxy, sd|KL, nats|Words|"
    head += "Distinct-2|Finished, %|Leaked, %"
    bounds = plots.domain([0.0, mark, *(s["gold"][f] for s in systems for f in ("mean", "low", "high"))])
    rows = []
    for s in systems:
        row = [
            s["name"],
            cell(s["gold"]) + (f", {counted(s['seeds'], 'seed')}" if _lacks(report, s) else ""),
            signed(s["difference"]),
            *_told(s["difference"]),
            cell(s["proxy"]),
            cell(s["kl"]) + _cut(s),
        ]
        row += [cell(s["words"], 1), number(s["distinct_2"])]
        row += [percent(s[f]) for f in ("finished", "leaked", "ess")]
        rows.append([*row, count(s["train_tokens"]), count(_seconds(report, s)), count(s["generated"])])
    family = sum((s["difference"] or {}).get("p_holm") is not None for s in systems)
    return Table(
        "All systems, best gold reward first. Bold, and a verdict of yes or no: the paired interval of the difference "
        f"from {first} excludes 0, also after Holm's correction over all {family} differences. One that rests on a "
        "single seed of either, where the report has several, is not judged. Power from: the "
        "smallest true difference that this comparison would have shown with a chance of 80 %, by the standard error "
        f"observed, at Holm's first level (.05 / {family or 1}); what is not told apart may differ by less. An "
        "interval holds for its own row, not for the best of many. KL: of all responses as they were drawn, from the "
        "reference at the same temperature without a condition; one that was cut off counts with the tokens that it "
        "has, and their share stands beside the KL. That of the best of n is at most what is shown: exact where no two "
        "of its draws tie or repeat.",
        [*head.split("|"), "ESS, %", "Train tokens", "Seconds", "Generated"],
        rows,
        frozenset((i, 2) for i, s in enumerate(systems) if claimed(s["difference"])),
        [" ".join(s[f] for f in ("settings", "target") if s[f] and s[f] not in s["name"]) for s in systems],
        [plots.bar(s["gold"], *bounds, mark) for s in systems],
    )


def _told(difference: Report | None) -> tuple[str, str]:
    """Format the verdict on a difference, and the smallest that could have been shown."""
    return verdict(difference), number((difference or {}).get("least"))


def _cut(s: Report) -> str:
    """Format the share of responses that were cut off, where the KL counts any."""
    share = None if s["kl"] is None or s["finished"] is None else 1 - s["finished"]
    return f", {percent(share)} % cut off" if share else ""


def budget(report: Report) -> Table:
    """Describe the budget of every method and the machine."""
    budget = report["budget"]
    facts = {
        "Model": f"{budget['model']}, {budget['parameters']:,} parameters",
        "Rows to train on": f"{budget['rows']:,}",
        "Optimizer steps": f"{budget['steps']:,} of {budget['batch_size']:,} groups",
        "Training may generate": _most(budget.get("generated_tokens"), "tokens"),
        "Training may have scored": _most(budget.get("scorer_calls"), "responses"),
        "Seeds": str(report["seeds"]),
        "Held-out prompts": f"{report['prompts']:,}",
        "Gold, evaluation only": report["gold"] + (" (the same as the proxy)" if report["gold_is_proxy"] else ""),
        "Proxy, seen in training": report["proxy"],
        "Reward, 1 sd of the logs": number(report["behaviour"]["reward_sd_raw"]),
        "Machine": report["machine"],
        "Commit, date": f"{report['commit']}, {report['created']}",
    }
    return Table("Every method had the same.", ("Resource", "Amount"), list(facts.items()), prose=True)


def _seconds(report: Report, system: Report) -> float:
    """Training time in seconds; kept apart from the systems because it differs between equal runs."""
    return float((report.get("seconds") or {}).get(system["name"], 0))


def _most(limit: int | None, unit: str) -> str:
    return f"{limit:,} {unit} at most" if limit else "no limit"


def taken(report: Report) -> list[Block]:
    """Tabulate the cost of each system."""
    head = (
        "System|Learning rate|Optimizer steps|Tokens trained on|Responses drawn|Tokens drawn, at most|Scorer calls|"
        "Seconds|Answers|Tokens read, an answer"
    )
    keys = ("steps", "train_tokens", "drawn", "drawn_tokens", "scored")
    rows = [
        [s["name"], rate(s.get("learning_rate")), *(count(s.get(k) or 0) for k in keys), count(seconds), answers, read]
        for s in report["systems"]
        for seconds, answers, read in [(_seconds(report, s), count(s["generated"]), number(s.get("prompt_tokens"), 0))]
    ]
    caption = (
        "Cost of each system, mean over seeds; answers: for this report. Tokens read: prompt, condition and examples."
    )
    blocks: list[Block] = [Table(caption, head.split("|"), rows)]
    hashes = list((report.get("hashes") or {}).items())
    return blocks + ([Table("Hashes.", ("Input or policy", "Hash"), hashes, prose=True)] if hashes else [])
