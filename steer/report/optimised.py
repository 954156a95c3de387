"""Gold and proxy reward of each method against its strength: over-optimised where gold falls while the proxy rises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from steer.report import page, plots
from steer.report.cells import Report
from steer.report.page import Block

# Numbers in the name of a system of which more is always stronger, and what they are where the name is silent.
RISING = {"best_of": 1.0, "guidance": 1.0, "rounds": 0.0}  # a method with rounds of its own says how many
CAPTION = (
    "Over-optimisation: gold (discs) and proxy reward (diamonds), in sd of the logs, of every method that was run at "
    "several values of one number, stronger to the right, evenly spaced. A proxy that rises while gold falls is "
    "over-optimised. The bands are 95 % intervals of each value by itself, not of the differences along a line."
)


def optimised(report: Report) -> list[Block]:
    """Chart both rewards of each method over each number that its systems differ in alone; nothing for one scorer."""
    if report["gold_is_proxy"]:
        return []
    charts = [_chart(title, knob, points) for (title, knob), points in _lines(report["systems"]).items()]
    return [CAPTION, page.figures(charts)] if charts else []


def _lines(systems: Sequence[Report]) -> dict[tuple[str, str], list[tuple[float, Report]]]:
    """Systems with their value of a number, weaker first, by (what they have in common, name of the number)."""
    lines: dict[tuple[str, str], list[tuple[float, Report]]] = {}
    for system in systems:
        if not system.get("family") or None in (system["gold"]["mean"], system["proxy"]["mean"]):
            continue
        knobs = {**({"rounds": str(system["rounds"])} if system.get("rounds") else {}), **_knobs(system["name"])}
        for knob in {**RISING, **knobs}:
            value = _number(knobs.get(knob, RISING.get(knob)))
            rest = ",".join(f"{k}={v}" for k, v in sorted(knobs.items()) if k != knob)
            if value is not None:
                lines.setdefault((": ".join(filter(None, (system["family"], rest))), knob), []).append((value, system))
    several = {
        key: sorted(points, key=lambda p: p[0]) for key, points in lines.items() if len({x for x, _ in points}) > 1
    }
    return {(title, knob): _stronger_last(knob, points) for (title, knob), points in several.items()}


def _knobs(name: str) -> Mapping[str, str]:
    """Settings in the name of a system, `rwr:beta=3 @ best` -> {"beta": "3"}."""
    _, _, settings = name.partition(" @ ")[0].partition(":")
    return {k: v for k, _, v in (part.partition("=") for part in settings.split(",") if part)}


def _number(value: str | float | None) -> float | None:
    try:
        return None if value is None else float(value)
    except ValueError:
        return None


def _stronger_last(knob: str, points: list[tuple[float, Report]]) -> list[tuple[float, Report]]:
    """Turn the points round if less of the number is stronger: further from the base, or with a higher proxy."""
    ends = [points[0][1], points[-1][1]]
    far = [s["kl"]["mean"] for s in ends if s["kl"] and s["kl"]["mean"] is not None]
    low, high = far if len(far) == len(ends) else [s["proxy"]["mean"] for s in ends]
    return points[::-1] if knob not in RISING and low > high else points


def _chart(title: str, knob: str, points: Sequence[tuple[float, Report]]) -> tuple[str, str]:
    """Draw a line for each scorer, and say where each is highest."""
    lines = [
        plots.Series.of(name, name, [(i, system[name]) for i, (_, system) in enumerate(points)])
        for name in ("gold", "proxy")
    ]
    chart = plots.curve(f"Gold and proxy reward of {title}", lines, knob, "", named=[f"{x:g}" for x, _ in points])
    gold, proxy = (max(points, key=lambda p: p[1][name]["mean"])[0] for name in ("gold", "proxy"))
    return chart, f"{title}\nGold is highest at {knob} = {gold:g}, the proxy at {proxy:g}."
