"""Sample answers of the systems side by side, and the rounds of iteration."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from steer.report import page, plots
from steer.report.cells import Report, cell, number, percent
from steer.report.page import Block, Raw, Table

SAMPLES, LETTERS = 12, 60_000  # prompts, and letters of all answers, on the page; report.json holds them all


def side_by_side(samples: Sequence[Report]) -> list[Block]:
    """Answers to each prompt side by side, cut so that the page stays small."""
    more, samples = len(samples) - SAMPLES, samples[:SAMPLES]
    limit = max(200, min(2000, LETTERS // max(1, sum(len(s["answers"]) for s in samples))))
    blocks: list[Block] = []
    for sample in samples:
        cards = [f'<div class="prompt" dir="auto">{_cut(sample["prompt"], 2000)}</div><div class="cards">']
        for a in sample["answers"]:
            scores = "".join(f"<span>{escape(n)} {number(v)}</span> " for n, v in a["scores"].items())
            text = _cut(a["text"], limit) or '<span class="soft">(empty)</span>'
            head = f'<article><h3>{escape(a["name"])}</h3><p dir="auto">'
            cards.append(f"{head}{text}</p><footer>{scores}</footer></article>")
        blocks.append(Raw("".join(cards) + "</div>"))
    return blocks + ([f"{more} more prompts are in report.json."] if more > 0 else [])


def _cut(text: str, limit: int) -> str:
    """Escape a text and cut it at the limit, with a visible note."""
    more = len(text) - limit
    rest = f'<span class="soft"> … {more:,} more letters in report.json</span>' if more > 0 else ""
    return escape(text[:limit]) + rest


def over_rounds(loop: Report) -> list[Block]:
    """Charts and table of reward, KL and diversity per round; the kept round is bold."""
    rounds, kept = loop["rounds"], loop["kept"]

    def curve(title: str, *series: tuple[str, str, str]) -> tuple[str, str]:
        lines = [plots.Series.of(name, look, ((r["round"], r[key]) for r in rounds)) for name, look, key in series]
        return plots.curve(f"{title} per round", lines, "round", ""), f"{title}\n"

    rows = [
        [
            str(r["round"]),
            f"{r['rows']:,}",
            *(cell(r[f]) for f in ("gold", "reward", "kl")),
            percent(r.get("unfinished")),
            number(r["distinct_2"]),
        ]
        for r in rounds
    ]
    return [
        page.figures([curve("reward, sd", ("gold", "gold", "gold"), ("proxy", "proxy", "reward")),
                  curve("KL, nats", ("KL", "gold", "kl")), curve("distinct-2", ("distinct-2", "gold", "distinct_2"))]),
        Table("Rounds; bold: the kept one.",
              ("Round", "Rows", "Gold, sd", "Proxy, sd", "KL, nats", "Cut off, %", "Distinct-2"), rows,
              frozenset((i, j) for i, r in enumerate(rounds) if r["round"] == kept for j in range(1, 7)),
              [f"asked {r['target']}" if r["target"] else "" for r in rounds]),
    ]  # fmt: skip
