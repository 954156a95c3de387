"""Text of figures and intervals, and what an interval allows to claim."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

Report = dict[str, Any]
UNDEFINED = {"mean": None, "low": None, "high": None, "n": 0}
ALPHA = 0.05


def ranked(report: Report) -> list[Report]:
    """Systems, best gold reward first, undefined last."""
    means = [-math.inf if s["gold"]["mean"] is None else s["gold"]["mean"] for s in report["systems"]]
    return [report["systems"][i] for i in sorted(range(len(means)), key=lambda i: -means[i])]


def baseline(report: Report) -> float | None:
    """Gold reward of the system that the others are compared with."""
    return next((s["gold"]["mean"] for s in report["systems"] if s["name"] == report["baseline"]), None)


def claimed(difference: Report | None) -> bool:
    """Whether a difference may be claimed: its interval excludes 0, also after correction for multiple comparisons.

    One that does not hold for other seeds, in a report of several, may not.
    """
    p = (difference or {}).get("p_holm")
    return excludes(difference) and (p is None or p < ALPHA) and not one_seed(difference)


def one_seed(difference: Report | None) -> bool:
    """Whether one of the two that differ has a single seed in a report of several."""
    return bool((difference or {}).get("one_seed"))


def verdict(difference: Report | None) -> str:
    """Whether a difference is shown to be above 0: `yes`, `no` (shown to be below), `not told apart`, or unknown."""
    if difference is None or None in (difference["mean"], difference["low"], difference["high"]):
        return "-"
    if not claimed(difference):
        return "not told apart"
    return "yes" if difference["mean"] > 0 else "no"


def is_control(dial: Report) -> bool:
    """Whether a dial is a negative control, which must not move."""
    return "permuted" in dial["name"]


def excludes(interval: Report | None, value: float = 0) -> bool:
    """Whether an interval has bounds and a value lies outside them."""
    low, high = (interval["low"], interval["high"]) if interval else (None, None)
    return low is not None and high is not None and (low > value or high < value)


def cell(interval: Report | None, digits: int = 2) -> str:
    """Format mean and bounds; a dash for an undefined mean."""
    if interval is None or interval["mean"] is None:
        return "-"
    mean, low, high = (number(interval[field], digits) for field in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def signed(interval: Report | None, unit: str = "") -> str:
    """Format a difference: signed mean and bounds."""
    text = cell(interval).replace(" [", f"{unit} [")
    return text if text[0] == "-" else f"+{text}"


def listed(pairs: Sequence[tuple[str, Report]]) -> str:
    """Join names with their differences."""
    return ", ".join(f"{name} ({signed(d)})" for name, d in pairs)


def number(value: float | None, digits: int = 2) -> str:
    """Format a figure; a dash where it is undefined."""
    return "-" if value is None else f"{value:z.{digits}f}"


def rate(value: float | None) -> str:
    """Format a learning rate; a dash where nothing was trained.

    >>> rate(0.0002)
    '2e-4'
    """
    return "-" if not value else f"{value:.2g}".replace("e-0", "e-") if value < 1e-3 else f"{value:.2g}"


def percent(value: float | None) -> str:
    """Format a share in per cent, without the sign."""
    return "-" if value is None else f"{100 * value:z.1f}"


def count(value: float) -> str:
    """Format with about three digits; a dash for zero."""
    short = f"{value / 1e6:.3g}M" if value < 1e9 else f"{value / 1e9:,.3g}B"
    return "-" if not value else f"{value:,.0f}" if value < 1e6 else short


def counted(count: int, noun: str, plural: str = "") -> str:
    """Format a count with its noun: `3 seeds`."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def finite(value: Any) -> Any:
    """Replace NaN and infinity by None, for JSON has neither."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
