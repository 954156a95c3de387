"""Draw gold and proxy reward over steps: `python benchmarks/over_optimised.py CLAIMS > examples/over_optimised.svg`.

CLAIMS is the Markdown of the claims study (benchmarks/results/claims.md), whose table of ReMax by steps is drawn: a
chart for the proxy on few ratings and one for that on all, on one scale, as in the report of `steer compare`.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from steer.report import page, plots

LOOK = "svg{color:var(--ink);background:var(--paper);font-family:system-ui,sans-serif}"  # a page has it from its body
ARMS = ("few ratings", "all ratings")
(WIDTH, HEIGHT), MARGIN = plots.CURVE, 28  # px of a chart, and around it


def picture(claims: str) -> str:
    """Draw the table of ReMax by steps in the Markdown of a claims study, as an SVG that stands alone."""
    [table] = re.findall(r"^\| remax, steps .*\n(?:\|.*\n)+", claims, re.MULTILINE)
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    columns = {name: [_interval(row[i]) for row in rows] for i, name in enumerate(head) if i}
    ends = [interval[end] for column in columns.values() for interval in column for end in ("low", "high")]
    parts = []
    for i, arm in enumerate(ARMS):
        series = [plots.Series.of(name, name, enumerate(columns[f"{arm}: {name}"])) for name in ("gold", "proxy")]
        title, steps = f"reward, sd; proxy on {arm}", [row[0] for row in rows]
        chart = plots.curve(title, series, "optimizer steps of remax", "", named=steps, within=ends)
        place = f'transform="translate({MARGIN + i * (WIDTH + MARGIN)} {MARGIN})"'
        parts.append(f'<g {place}><text class="soft" y="-8">{title}</text>{chart}</g>')
    width, height = MARGIN + len(ARMS) * (WIDTH + MARGIN), HEIGHT + 1.5 * MARGIN
    size = f'width="{1.4 * width:g}" height="{1.4 * height:g}" viewBox="0 0 {width} {height:g}"'
    style = f"<style>{page.STYLE}{LOOK}</style>"
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{style}{"".join(parts)}</svg>'


def _interval(text: str) -> dict[str, float]:
    """Read an interval as tables print it: `0.69 [0.61, 0.77]`."""
    return dict(zip(("mean", "low", "high"), map(float, re.findall(r"-?[0-9.]+", text))))


if __name__ == "__main__":
    print(picture(Path(sys.argv[1]).read_text(encoding="utf-8")))
