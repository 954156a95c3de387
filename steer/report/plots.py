"""Small charts as SVG text, without a library or script; colours are the page's CSS variables, so dark mode works.

An interval is {"mean", "low", "high", "n"}, None where undefined; undefined parts are not drawn. Texts are escaped.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, NamedTuple

from steer.report.cells import UNDEFINED

Interval = Mapping[str, Any]
Box = tuple[float, float, float, float]  # left, top, right, bottom
ENDS = ("mean", "low", "high")
LETTER = 6.4  # mean width of a letter in px, at the 12 px of the charts


class Series(NamedTuple):
    """One line of a chart: `look` is the CSS class of its colour, `gold` or `proxy`."""

    name: str
    look: str
    points: Sequence[tuple[float, Interval]]

    @staticmethod
    def of(name: str, look: str, points: Iterable[tuple[float, Any]]) -> Series:
        """Make a series of intervals or plain figures, which have no bounds."""
        return Series(name, look, [(x, y if isinstance(y, dict) else UNDEFINED | {"mean": y}) for x, y in points])


@dataclass(frozen=True)
class Scale:
    """Linear map of values low..high to pixels start..end."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Pixels, to a tenth."""
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)


def domain(values: Iterable[float | None], pad: float = 0.06) -> tuple[float, float]:
    """Smallest range that holds all defined values, with a margin on both sides."""
    defined = [v for v in values if v is not None] or [0.0]
    low, high = min(defined), max(defined)
    margin = (high - low) * pad if high - low > 1e-9 * max(1.0, abs(low)) else 0.5
    return low - margin, high + margin


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers between low and high, about `count`.

    >>> ticks(-0.3, 2.1)
    [0.0, 0.5, 1.0, 1.5, 2.0]
    """
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= 0.75 * raw)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 10) + 0.0 for i in range(first, last + 1)]


def bar(interval: Interval, low: float, high: float, mark: float | None) -> str:
    """Draw an interval as a small bar for a table cell, on a scale that all rows share; `mark` is the baseline."""
    width, height, x = 96, 16, Scale(low, high, 3, 93)
    marks = [(v, look) for v, look in ((0.0, "axis"), (mark, "mark")) if v is not None and low <= v <= high]
    body = "".join(_line(x(v), 0, x(v), height, look) for v, look in marks) + _whisker(interval, x, 8, "gold")
    return _svg(_text(interval), width, height, body, 'class="bar" aria-hidden="true"')


def forest(rows: Sequence[tuple[str, Interval, Interval]], baseline: float | None, named: str = "mle") -> str:
    """Draw gold reward with its interval per system, (name, gold, proxy), and the proxy's as an open diamond."""
    left = 16 + LETTER * max((len(_short(name)) for name, _, _ in rows), default=0)
    right, top, step = left + 440, 44, 26
    bottom = top + step * len(rows)
    bounds = domain([0.0, *(i[f] for _, *pair in rows for i in pair for f in ("mean", "low", "high"))])
    x = Scale(*bounds, left, right)
    parts = [_line(x(t), top, x(t), bottom, "axis" if t == 0 else "grid") for t in ticks(*bounds)]
    parts += [_words(x(t), bottom + 18, _number(t), "middle", "soft") for t in ticks(*bounds)]
    if baseline is not None:
        parts += [_line(x(baseline), top, x(baseline), bottom, "mark"), _words(x(baseline), top - 7, named, "middle")]
    for i, (name, gold, proxy) in enumerate(rows):
        y = top + step * (i + 0.5)
        parts.append(_words(0, y + 4, _short(name), "start"))
        parts.append(_dot(x(proxy["mean"]), y, "proxy") if proxy["mean"] is not None else "")
        parts.append(_whisker(gold, x, y, "gold") + _words(right + 150, y + 4, _text(gold), "end"))
    parts.append(_words((left + right) / 2, bottom + 38, "reward, sd (0 = mean)", "middle", "soft"))
    parts.append(_legend(left, 14, [("gold", "gold, 95 % interval"), ("proxy", "proxy (training saw it)")]))
    return _svg("Gold reward per system, with 95 % intervals", right + 152, bottom + 44, "".join(parts))


class Axes(NamedTuple):
    """Axes of a scatter: `root` draws x as a square root from 0, `equal` draws y = x."""

    title: str
    x: str
    y: str
    root: bool = False
    equal: bool = False


KL = Axes(
    "Gold reward against KL, one point per system",
    "KL from the reference, nats per response (√ scale)",
    "gold reward, sd",
    root=True,
)
REWARDS = Axes(
    "Gold reward against proxy reward, one point per system", "proxy reward, sd", "gold reward, sd", equal=True
)


def scatter(rows: Sequence[tuple[str, Interval, Interval]], families: Sequence[str] = (), axes: Axes = KL) -> str:
    """Draw one point per system, (name, x, y) with both intervals; a line joins the points of a family."""
    families = families or [""] * len(rows)
    points = [(*row, f) for row, f in zip(rows, families) if None not in (row[1]["mean"], row[2]["mean"])]
    width, left, top, bottom, place = 760, 52, 16, 380, _root if axes.root else _same
    bounds = [domain([*([0.0] if axes.root else []), *(place(k[f]) for _, k, _, _ in points for f in ENDS)], 0.04)]
    bounds.append(domain([r[f] for _, _, r, _ in points for f in ENDS]))
    x, y = Scale(*bounds[0], left, width - 20), Scale(*bounds[1], bottom, top)
    parts = [_line(left, y(t), width, y(t), "axis" if t == 0 else "grid") for t in ticks(*bounds[1])]
    parts += [_line(left, bottom, width, bottom, "grid")]
    parts += [_words(left - 10, y(t) + 4, _number(t), "end", "soft") for t in ticks(*bounds[1])]
    for t in _root_ticks(x) if axes.root else ticks(*bounds[0], 8):
        parts += [_line(x(place(t)), bottom, x(place(t)), bottom + 5, "axis")]
        parts += [_words(x(place(t)), bottom + 20, _number(t), "middle", "soft")]
    if axes.equal:
        low, high = max(bounds[0][0], bounds[1][0]), min(bounds[0][1], bounds[1][1])
        parts += [_line(x(low), y(low), x(high), y(high), "mark")] if low < high else []
    drawn = [({f: place(k[f]) for f in ENDS}, r) for _, k, r, _ in points]
    parts += _joined([f for *_, f in points], [(x(k["mean"]), y(r["mean"])) for k, r in drawn])
    taken: list[Box] = []
    for k, r in drawn:
        px, py = x(k["mean"]), y(r["mean"])
        parts += [_whisker(k | {"mean": None}, x, py, "gold"), _upright(r, y, px, "gold")]
        taken.append((px - 5, py - 5, px + 5, py + 5))
        taken += [(x(k["low"]), py - 2, x(k["high"]), py + 2)] if k["low"] is not None else []
        taken += [(px - 2, y(r["high"]), px + 2, y(r["low"]))] if r["low"] is not None else []
    for (name, *_), (k, r) in zip(points, drawn):
        ends = [x(k["mean"] if k[f] is None else k[f]) for f in ("low", "high")]
        parts.append(_placed(_short(name), (ends[0], ends[1]), y(r["mean"]), taken, (left, top, width, bottom)))
    parts += [_dot(x(k["mean"]), y(r["mean"]), "gold") for k, r in drawn]
    parts.append(_words((left + width) / 2, bottom + 42, axes.x, "middle", "soft"))
    parts.append(_words(0, top - 4, axes.y, "start", "soft"))
    return _svg(axes.title, width, bottom + 48, "".join(parts))


def _joined(families: Sequence[str], points: Sequence[tuple[float, float]]) -> list[str]:
    """Lines through the points of each family, from left to right."""
    lines = []
    for family in dict.fromkeys(f for f in families if f):
        members = sorted(p for f, p in zip(families, points) if f == family)
        path = "L".join(f"{px:g} {py:g}" for px, py in members)
        lines += [f'<path class="family" d="M{path}"/>'] if len(members) > 1 else []
    return lines


CURVE = 236, 214  # px of a curve: width, height


def curve(
    title: str,
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    *,
    identity: bool = False,
    named: Sequence[str] = (),
    within: Sequence[float] = (),
) -> str:
    """Draw means with interval bands over whole numbers on x; `identity` draws y = x, both axes on one range.

    `named`: what stands at 0, 1, ... on x in place of these numbers. `within`: values that y must hold too.
    """
    kept = [s._replace(points=[p for p in s.points if p[1]["mean"] is not None]) for s in series]
    xs = sorted({px for s in kept for px, _ in s.points})
    (width, height), left, top, bottom = CURVE, 36, 34, 174
    values = [i[f] for s in kept for _, i in s.points for f in ("mean", "low", "high")]
    bounds = domain([*values, *within, *(xs if identity else ())])
    x = Scale(*(bounds if identity else domain(xs)), left, width - 8)
    y = Scale(*bounds, bottom, top)
    parts = [_line(left, y(t), width - 8, y(t), "grid") for t in ticks(*bounds)]
    parts += [_words(left - 8, y(t) + 4, _number(t), "end", "soft") for t in ticks(*bounds)]
    shown = {t: named[int(t)] if named else _number(t) for t in xs[:: -(-len(xs) // 8) or 1]}
    parts += [_words(x(t), bottom + 18, text, "middle", "soft") for t, text in shown.items()]
    if identity and xs:
        parts.append(_line(x(xs[0]), y(xs[0]), x(xs[-1]), y(xs[-1]), "mark"))
    parts += [_band(s, x, y) for s in kept]
    legend = _legend(left, 14, [(s.look, s.name) for s in kept])
    parts.append(legend if len(series) > 1 else _words(0, 14, y_label, "start", "soft"))
    parts.append(_words((left + width) / 2, height - 4, x_label, "middle", "soft"))
    return _svg(title, width, height, "".join(parts))


def _svg(title: str, width: float, height: float, body: str, more: str = 'role="img"') -> str:
    size = f'width="{width:g}" height="{height:g}" viewBox="0 0 {width:g} {height:g}"'
    return f"<svg {more} {size}><title>{escape(title)}</title>{body}</svg>"


def _line(x1: float, y1: float, x2: float, y2: float, look: str) -> str:
    return f'<path class="{look}" d="M{x1:g} {y1:g}L{x2:g} {y2:g}"/>'


def _words(x: float, y: float, text: str, anchor: str, look: str = "") -> str:
    look = f' class="{look}"' if look else ""
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"{look}>{escape(text)}</text>'


def _dot(x: float, y: float, look: str) -> str:
    """A disc for gold, an open diamond for the proxy: distinguishable without colour."""
    disc, diamond = f'<circle class="dot gold" cx="{x:g}" cy="{y:g}" r="4"/>', f"M{x:g} {y - 5:g}l5 5l-5 5l-5-5z"
    return disc if look == "gold" else f'<path class="dot proxy" d="{diamond}"/>'


def _whisker(interval: Interval, x: Scale, y: float, look: str) -> str:
    """A point with its horizontal interval."""
    mean, low, high = interval["mean"], interval["low"], interval["high"]
    bounds = "" if None in (low, high) else _line(x(low), y, x(high), y, f"error {look}")
    return bounds + ("" if mean is None else _dot(x(mean), y, look))


def _upright(interval: Interval, y: Scale, x: float, look: str) -> str:
    low, high = interval["low"], interval["high"]
    return "" if None in (low, high) else _line(x, y(low), x, y(high), f"error {look}")


def _band(series: Series, x: Scale, y: Scale) -> str:
    """A line through the means over the area between the bounds."""
    bounded = [(x(px), y(i["low"]), y(i["high"])) for px, i in series.points if None not in (i["low"], i["high"])]
    edge = [f"{px:g} {high:g}" for px, _, high in bounded] + [f"{px:g} {low:g}" for px, low, _ in bounded[::-1]]
    path = "L".join(f"{x(px):g} {y(i['mean']):g}" for px, i in series.points)
    parts = [f'<path class="band {series.look}" d="M{"L".join(edge)}z"/>'] if len(bounded) > 1 else []
    parts += [f'<path class="curve {series.look}" d="M{path}"/>'] if len(series.points) > 1 else []
    for px, interval in series.points:
        parts.append(_upright(interval, y, x(px), series.look) + _dot(x(px), y(interval["mean"]), series.look))
    return "".join(parts)


def _legend(x: float, y: float, items: Sequence[tuple[str, str]]) -> str:
    parts = []
    for look, text in items:
        parts.append(_dot(x + 5, y - 4, look) + _words(x + 15, y, text, "start", "soft"))
        x += 36 + LETTER * len(text)
    return "".join(parts)


def _placed(text: str, x: tuple[float, float], y: float, taken: list[Box], frame: Box) -> str:
    """Place a label beside its point with ends x where it overlaps least; its box is added to `taken`."""
    width = LETTER * len(text)
    spots = [
        (at + reach, y + dy, anchor, at + reach - share * width)
        for dy in (4, -8, 16, -24, 32)
        for at, reach, anchor, share in ((x[1], 7, "start", 0), (x[0], -7, "end", 1), (sum(x) / 2, 5, "start", 0))
    ]

    def cost(spot: tuple[float, float, str, float]) -> float:
        box = (spot[3], spot[1] - 10, spot[3] + width, spot[1] + 3)
        outside = sum(max(0.0, s * (f - b)) for s, f, b in zip((1, 1, -1, -1), frame, box))
        return 1000 * outside + 10 * sum(_overlap(box, other) for other in taken) + abs(spot[1] - 4 - y)

    best = min(spots, key=cost)
    taken.append((best[3], best[1] - 10, best[3] + width, best[1] + 3))
    return _words(best[0], best[1], text, best[2], "label")


def _overlap(a: Box, b: Box) -> float:
    across, along = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return across * along if across > 0 and along > 0 else 0.0


def _root(value: Any) -> Any:
    """Square root that keeps the sign: an estimate of KL may fall below 0."""
    return None if value is None else math.copysign(math.sqrt(abs(value)), value)


def _same(value: Any) -> Any:
    return value


def _root_ticks(x: Scale) -> list[float]:
    """Round numbers whose square roots lie far enough apart to be legible."""
    kept = [0.0]
    for value in (m * 10.0**power for power in range(-2, 7) for m in (1, 2, 5)):
        kept += [value] if _root(value) <= x.high and x(_root(value)) - x(_root(kept[-1])) > 32 else []
    return kept


def _number(value: float) -> str:
    return f"{value:g}".replace("-", "−")


def _text(interval: Interval) -> str:
    """Format a number as the tables do.

    >>> _text({"mean": 1.234, "low": None, "high": None, "n": 3})
    '1.23 [–, –]'
    """
    mean, low, high = ("–" if interval[f] is None else f"{interval[f]:z.2f}" for f in ("mean", "low", "high"))
    return mean if interval["mean"] is None else f"{mean} [{low}, {high}]".replace("-", "−")


def _short(name: str) -> str:
    return name if len(name) <= 34 else name[:33] + "…"
