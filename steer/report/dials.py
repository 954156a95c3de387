"""Dials: what was obtained for what was asked, what else moved, and the controls that must not move."""

from __future__ import annotations

from steer.report import page, plots
from steer.report.cells import Report, cell, excludes, leaves_out_0, number
from steer.report.page import Block, Raw, Table

DIAL = {
    "spearman_means": "Spearman of means",
    "slope": "Slope",
    "span_ratio": "Span / data's",
    "mae": "MAE, levels",
    "exact": "Exact",
    "within_one": "Within one",
    "partial_slope": "Slope, others held",
    "spearman": "Spearman",
    "tau": "Tau in prompt",
}


def sentence(dial: Report) -> str:
    """Tabulate what asking for one level more obtains on each attribute."""
    name, found = dial["name"], dial["result"]["attributes"]
    slopes = {n: a["partial_slope"] for n, a in found.items()}
    moved = [f"{n} {cell(s)}" for n, s in slopes.items() if leaves_out_0(s)]
    still = [f"{n} {cell(s)}" for n, s in slopes.items() if not leaves_out_0(s)]
    said = [f"Asked for one level more, {name} obtains, in levels: {', '.join(moved)}"] if moved else []
    said += [f"{name} is not shown to move: {', '.join(still)}"] if still else []
    return "; ".join(said) + "."


def blocks(dial: Report) -> list[Block]:
    """Target against obtained: charts and tables of one dial."""
    name, found = dial["name"], dial["result"]["attributes"]
    asked = sorted({row["target"] for a in found.values() for row in a["means"]})
    means = {n: {row["target"]: row for row in a["means"]} for n, a in found.items()}
    obtained = [[n, *(cell(means[n].get(t)) for t in asked)] for n in found]
    figures = [[n, str(a["n"]), str(a["undefined"]), *(cell(a[f]) for f in DIAL)] for n, a in found.items()]
    return [
        f"{name}: {dial['result']['n']} responses to {dial['result']['prompts']} prompts, {dial['targets']} targets.",
        charts(dial),
        Table(
            f"{name}: mean level obtained per level asked; levels count from 0.", ("Asked", *map(str, asked)), obtained
        ),
        Table(f"{name}: figures of the dial.", ("Attribute", "n", "No score", *DIAL.values()), figures),
    ]


def charts(dial: Report) -> Raw:
    """One small chart per attribute."""
    drawn, labels = [], ("level asked (dashed: equal)", "level obtained")
    for name, found in dial["result"]["attributes"].items():
        points = [(row["target"], row) for row in found["means"]]
        title = f"{dial['name']}: {name} obtained per level asked"
        chart = plots.curve(title, [plots.Series(name, "gold", points)], *labels, identity=True)
        spearman, slope, span = (cell(found[f]) for f in ("spearman_means", "slope", "span_ratio"))
        facts = f"Spearman of means {spearman}\nslope {slope}\nspan {span} of data's"
        drawn.append((chart if points else "", f"{name}\n{facts if points else 'not asked, or no score'}"))
    return page.figures(drawn)


def leakage(dial: Report, behaviour: Report) -> list[Block]:
    """Tabulate how asking for one attribute moves the others, beside the correlation in the data."""
    result = dial["result"]
    names = list(result["attributes"])
    cells = [(j, k) for j in range(len(names)) for k in range(len(names))]
    strong = {(j, k + 1) for j, k in cells if excludes(result["leakage_low"][j][k], result["leakage_high"][j][k])}
    at = [behaviour["names"].index(n) if n in behaviour["names"] else None for n in names]
    data = [[None if None in (j, k) else behaviour["correlation"][j][k] for k in at] for j in at]
    tables = [
        Table(
            caption,
            ("", *names),
            [[n, *map(number, row)] for n, row in zip(names, matrix)],
            frozenset(bold),
            heat=True,
        )
        for caption, matrix, bold in (
            (f"{dial['name']}: obtained (row) per asked (column)", result["leakage_scaled"], strong),
            ("The logs: correlation of gold scores", data, ()),
        )
    ]
    pair = f'<div class="pair">{"".join(map(page.html_table, tables))}</div>'
    text = (
        "Each attribute in units of its span in the logs. Bold: the interval leaves out 0. A dial that only follows "
        "the data moves the other attributes as their correlation does; one that steers leaves them near 0."
    )
    return [text, Raw(pair, "\n\n".join(map(page.markdown_table, tables)))]


def control(dial: Report) -> list[Block]:
    """Describe a control dial, which must not move."""
    found = dial["result"]["attributes"]
    moved = [n for n, a in found.items() if leaves_out_0(a["slope"])]
    verdict = (
        f"The interval leaves out 0 for {', '.join(moved)}: one in twenty does by chance, a clear slope means a leak."
        if moved
        else "No interval leaves out 0."
    )
    rows = [[n, *(cell(a[f]) for f in ("slope", "spearman", "tau"))] for n, a in found.items()]
    text = f"{dial['name']}: the slopes must be 0. {verdict}"
    head = ("Attribute", "Slope", "Spearman", "Tau in prompt")
    return [text, charts(dial), Table(f"{dial['name']}: what a dial without meaning obtains.", head, rows)]
