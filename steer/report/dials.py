"""Dials: levels obtained per level asked for, leakage to other attributes, and the controls that must not move."""

from __future__ import annotations

from collections.abc import Sequence

from steer.report import page, plots
from steer.report.cells import Report, cell, claimed, excludes, listed, number, one_seed, signed
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

LEVELS = "levels count from 0, and those obtained are continuous: they lie between whole levels and beyond the ends."


def sentence(dial: Report) -> str:
    """Summarise what asking for one level more obtains on each attribute."""
    name, slopes = dial["name"], {n: a["partial_slope"] for n, a in dial["result"]["attributes"].items()}
    moved = [f"{n} {cell(s)}" for n, s in slopes.items() if excludes(s)]
    still = [f"{n} {cell(s)}" for n, s in slopes.items() if not excludes(s)]
    parts = [f"Asked for one level more, {name} obtains, in levels: {', '.join(moved)}"] if moved else []
    parts += [f"{name} is not shown to move: {', '.join(still)}"] if still else []
    return "; ".join(parts) + "."


def gained(dials: Sequence[Report]) -> list[str]:
    """Summarise whose slopes are above, below, or not distinguished from those of the dial to compare with.

    A difference is claimed only if it is also after Holm's correction over all systems and attributes.
    """
    compared = [d for d in dials if d.get("less")]
    slopes = [(f"{d['name']} on {n}", slope) for d in compared for n, slope in d["less"]["slopes"].items()]
    slopes = [(name, slope) for name, slope in slopes if slope["low"] is not None]
    first = compared[0]["less"]["name"] if compared else ""
    open_, slopes = [x for x in slopes if one_seed(x[1])], [x for x in slopes if not one_seed(x[1])]
    told, untold = [x for x in slopes if claimed(x[1])], [x for x in slopes if not claimed(x[1])]
    same = f"Slopes not distinguished from those of {first}"
    lists = {
        f"Slopes above those of {first}, paired by prompt and target": [x for x in told if x[1]["low"] > 0],
        f"Slopes below those of {first}": [x for x in told if x[1]["high"] < 0],
        same: [x for x in untold if not excludes(x[1])],
        f"{same} where {len(slopes)} are compared (Holm)": [x for x in untold if excludes(x[1])],
        f"Slopes not judged against {first}, because one of the two has one seed": open_,
    }
    return [f"{text}: {listed(some)}." for text, some in lists.items() if some]


def text(dial: Report) -> str:
    """Format a dial for the terminal: a line an attribute, with what each level obtained and 95 % intervals."""
    columns = max(len(a["means"]) for a in dial["attributes"].values())
    width = max(len(name) for name in dial["attributes"])
    lines = [" " * width + "".join(f"{f'asked {i}':>20}" for i in range(columns)) + "   Spearman, single answers"]
    for name, result in dial["attributes"].items():
        cells = [f"{m['mean']:.2f} [{m['low']:.2f}, {m['high']:.2f}]" for m in result["means"]]
        means = "".join(f"{each:>20}" for each in [*cells, *[""] * (columns - len(cells))])
        lines.append(f"{name:<{width}}{means}   {cell(result['spearman'])}")
    return "\n".join(lines)


def side_by_side(dials: Sequence[Report]) -> list[Block]:
    """Tabulate the slopes of several dials, a row per system and attribute, and their differences from one of them."""
    if len(dials) < 2:
        return []
    first = next((d["less"]["name"] for d in dials if d.get("less")), "")
    rows: list[list[str]] = []
    strong: set[tuple[int, int]] = set()
    for d in dials:
        gains = (d.get("less") or {}).get("slopes", {})
        for name, a in d["result"]["attributes"].items():
            strong |= {(len(rows), 4)} if claimed(gains.get(name)) else set()
            less = [signed(gains[name]) if name in gains else "-"] if first else []
            rows.append([d["name"], name, *(cell(a[f]) for f in ("partial_slope", "spearman")), *less])
    text = (
        f" Bold: the interval of the slope less that of {first}, paired by prompt and target, excludes 0, also after "
        "Holm's correction over this table; an interval holds for its own row, not for the best of many."
    )
    head = ["System", "Attribute", DIAL["partial_slope"], DIAL["spearman"], *([f"Slope less {first}"] if first else [])]
    caption = f"Dials side by side: levels obtained per level asked.{text if first else ''}"
    return [Table(caption, head, rows, frozenset(strong))]


def blocks(dial: Report) -> list[Block]:
    """Charts and tables of one dial: levels obtained against targets."""
    name, attributes = dial["name"], dial["result"]["attributes"]
    figures = [[n, str(a["n"]), str(a["undefined"]), *(cell(a[f]) for f in DIAL)] for n, a in attributes.items()]
    return [
        f"{name}: {dial['result']['n']} responses to {dial['result']['prompts']} prompts, {dial['targets']} targets.",
        charts(dial),
        obtained(dial),
        Table(f"{name}: figures of the dial.", ("Attribute", "n", "No score", *DIAL.values()), figures),
    ]


def obtained(dial: Report) -> Table:
    """Tabulate the mean level of the answers at each level that was asked for."""
    attributes = dial["result"]["attributes"]
    targets = sorted({row["target"] for a in attributes.values() for row in a["means"]})
    means = {n: {row["target"]: row for row in a["means"]} for n, a in attributes.items()}
    rows = [[n, *(cell(means[n].get(t)) for t in targets)] for n in attributes]
    caption = f"{dial['name']}: mean level obtained per level asked; {LEVELS}{_shown(dial)}"
    return Table(caption, ("Asked", *map(str, targets)), rows)


def _shown(dial: Report) -> str:
    """Say what levels are called where they are asked for, if that is not their number."""
    called = {n: shown for n, shown in dial.get("shown", {}).items() if shown != [str(i) for i in range(len(shown))]}
    return "".join(f" Those of {n} are called {', '.join(shown)}." for n, shown in called.items())


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
