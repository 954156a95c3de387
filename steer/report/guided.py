"""Charts and table of the guidance curve that `steer.evaluation.guidance` measures."""

from __future__ import annotations

from steer.report import page, plots
from steer.report.cells import Report, cell, number
from steer.report.page import Block, Table

NAMES = {  # figure -> its name in the report
    "slope": "Slope on target",
    "distance": "Distance, levels",
    "fluency": "Base log p a token",
    "distinct_2": "Distinct-2",
    "repeated_3": "Repeated-3",
    "words": "Words",
    "cut": "Share cut off",
}
CHARTS = ("slope", "distance", "fluency", "distinct_2")


def guided(curve: Report) -> list[Block]:
    """Sentence on the strength with the largest slope, charts and table."""
    measured = [p for p in curve["points"] if p["slope"]["mean"] is not None]
    charts = page.figures([(_chart(curve, name), f"{NAMES[name]}\n") for name in CHARTS])
    if not measured:
        return [charts, table(curve)]
    best = max(measured, key=lambda p: p["slope"]["mean"])
    plain = next((p for p in measured if p["guidance"] == 1), best)
    sentence = (
        f"The slope of the obtained level on the target is highest at S = {best['guidance']:g}, {cell(best['slope'])}; "
        f"without guidance (S = 1) it is {cell(plain['slope'])}."
    )
    return [sentence, charts, table(curve)]


def table(curve: Report) -> Table:
    """Tabulate the figures, one strength a row."""
    rows = [
        [f"{p['guidance']:g}", *(cell(v) if isinstance(v := p[name], dict) else number(v) for name in NAMES)]
        for p in curve["points"]
    ]
    caption = (
        f"{curve['responses']} responses at {curve['targets']} targets to {curve['prompts']} prompts for each S, "
        f"away from {curve['against']}, scored by {curve['scorer']}."
    )
    return Table(caption, ("S", *NAMES.values()), rows)


def _chart(curve: Report, name: str) -> str:
    series = plots.Series.of(name, "gold", ((p["guidance"], p[name]) for p in curve["points"]))
    return plots.curve(f"{NAMES[name]} per strength of guidance", [series], "S", "")
