"""Dials: levels obtained per level asked for, leakage to other attributes, and the controls that must not move."""

from __future__ import annotations

from steer.report import page, plots
from steer.report.cells import Report, cell, excludes, number
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
    """Summarise what asking for one level more obtains on each attribute."""
    name, slopes = dial["name"], {n: a["partial_slope"] for n, a in dial["result"]["attributes"].items()}
    moved = [f"{n} {cell(s)}" for n, s in slopes.items() if excludes(s)]
    still = [f"{n} {cell(s)}" for n, s in slopes.items() if not excludes(s)]
    parts = [f"Asked for one level more, {name} obtains, in levels: {', '.join(moved)}"] if moved else []
    parts += [f"{name} is not shown to move: {', '.join(still)}"] if still else []
    return "; ".join(parts) + "."


def blocks(dial: Report) -> list[Block]:
    """Charts and tables of one dial: levels obtained against targets."""
    name, attributes = dial["name"], dial["result"]["attributes"]
    targets = sorted({row["target"] for a in attributes.values() for row in a["means"]})
    means = {n: {row["target"]: row for row in a["means"]} for n, a in attributes.items()}
    obtained = [[n, *(cell(means[n].get(t)) for t in targets)] for n in attributes]
    figures = [[n, str(a["n"]), str(a["undefined"]), *(cell(a[f]) for f in DIAL)] for n, a in attributes.items()]
    return [
        f"{name}: {dial['result']['n']} responses to {dial['result']['prompts']} prompts, {dial['targets']} targets.",
        charts(dial),
        Table(
            f"{name}: mean level obtained per level asked; levels count from 0.",
            ("Asked", *map(str, targets)),
            obtained,
        ),
        Table(f"{name}: figures of the dial.", ("Attribute", "n", "No score", *DIAL.values()), figures),
    ]


def charts(dial: Report) -> Raw:
    """Draw one small chart per attribute."""
    figures, labels = [], ("level asked (dashed: equal)", "level obtained")
    for name, attribute in dial["result"]["attributes"].items():
        points = [(row["target"], row) for row in attribute["means"]]
        title = f"{dial['name']}: {name} obtained per level asked"
        chart = plots.curve(title, [plots.Series(name, "gold", points)], *labels, identity=True)
        spearman, slope, span = (cell(attribute[f]) for f in ("spearman_means", "slope", "span_ratio"))
        facts = f"Spearman of means {spearman}\nslope {slope}\nspan {span} of data's"
        figures.append((chart if points else "", f"{name}\n{facts if points else 'not asked, or no score'}"))
    return page.figures(figures)


def leakage(dial: Report, behaviour: Report) -> list[Block]:
    """Tabulate how asking for one attribute moves the others, beside the correlation in the data."""
    result = dial["result"]
    names = list(result["attributes"])
    cells = [(j, k) for j in range(len(names)) for k in range(len(names))]
    bounds = {(j, k): {end: result[f"leakage_{end}"][j][k] for end in ("low", "high")} for j, k in cells}
    strong = {(j, k + 1) for (j, k), interval in bounds.items() if excludes(interval)}
    places = [behaviour["names"].index(n) if n in behaviour["names"] else None for n in names]
    data = [[None if None in (j, k) else behaviour["correlation"][j][k] for k in places] for j in places]
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
        "Each attribute in units of its span in the logs. Bold: the interval excludes 0. A dial that only follows "
        "the data moves the other attributes as their correlation does; one that steers leaves them near 0."
    )
    return [text, Raw(pair, "\n\n".join(map(page.markdown_table, tables)))]


def control(dial: Report) -> list[Block]:
    """Describe a control dial, which must not move."""
    attributes = dial["result"]["attributes"]
    moved = ", ".join(n for n, a in attributes.items() if excludes(a["slope"]))
    verdict = f"The interval excludes 0 for {moved}: one in twenty does by chance, a clear slope means a leak."
    verdict = verdict if moved else "No interval excludes 0."
    rows = [[n, *(cell(a[f]) for f in ("slope", "spearman", "tau"))] for n, a in attributes.items()]
    text = f"{dial['name']}: the slopes must be 0. {verdict}"
    head = ("Attribute", "Slope", "Spearman", "Tau in prompt")
    return [text, charts(dial), Table(f"{dial['name']}: what a meaningless dial obtains.", head, rows)]
