"""Sentences, tables and charts -> one HTML page that loads nothing, or Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from steer import plots


class Table(NamedTuple):
    """Rows of text and figures, the first column names them; `strong` cells are bold, `under` and `bars` adorn rows."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    strong: frozenset[tuple[int, int]] = frozenset()
    under: Sequence[str] = ()  # second line of a row's name
    bars: Sequence[str] = ()  # SVG beside a row's first figure
    heat: bool = False  # colour the cells by their value, -1 to 1
    prose: bool = False  # all columns are text


class Raw(NamedTuple):
    """A block that is more than paragraph or table, ready for the page and for Markdown."""

    html: str
    markdown: str = ""


Block = str | Table | Raw
Section = tuple[str, Sequence[Block]]


def html(title: str, facts: str, lead: Sequence[str], found: Sequence[Section], *, warned: bool) -> str:
    """One page without scripts; its policy forbids the browser to load anything. `warned`: lead[0] is a warning."""
    title = escape(title)
    links = " ".join(f'<a href="#{_slug(name)}">{name}</a>' for name, _ in found)
    head = [f'<p class="warning">{escape(lead[0])}</p>'] if warned else []
    head += [f"<p{' class=lead' if i == 0 else ''}>{_typeset(text)}</p>" for i, text in enumerate(lead[warned:])]
    body = "".join(
        f'<section id="{_slug(name)}"><h2>{name}</h2>{"".join(map(_html_block, blocks))}</section>'
        for name, blocks in found
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{plots.STYLE}</style></head><body><header>"
        f'<h1>{title}</h1><p class="soft">{escape(facts)}</p>{"".join(head)}<nav>{links}</nav></header>'
        f"<main>{body}</main></body></html>\n"
    )


def _html_block(block: Block) -> str:
    if isinstance(block, Raw):
        return block.html
    return html_table(block) if isinstance(block, Table) else f"<p>{_typeset(block)}</p>"


def html_table(t: Table) -> str:
    """A table with a caption; figures to the right, an interval below its figure."""
    kind = " class=heat" if t.heat else " class=prose" if t.prose else ""
    head = "".join(f'<th scope="col">{escape(h).replace("-", "‑")}</th>' if h else "<td></td>" for h in t.head)
    body = []
    for i, row in enumerate(t.rows):
        name = re.sub(r"(?<=[:,_])", "<wbr>", escape(row[0]))
        under = f"<small>{escape(t.under[i])}</small>" if t.under and t.under[i] else ""
        cells = [f'<th scope="row">{name}{under}</th>']
        for j, text in enumerate(row[1:], 1):
            shown = escape(text) if t.prose else _html_figure(text)
            if t.bars and j == 1:
                shown = f'<div class="barred">{t.bars[i]}<span>{shown}</span></div>'
            shown = f"<b>{shown}</b>" if (i, j) in t.strong else shown
            share = _heat(text) if t.heat else ""
            cells.append(f"<td{share}>{shown}</td>")
        body.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f'<div class="scroll" tabindex="0"><table{kind}><caption><span>{_typeset(t.caption)}</span></caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def _typeset(text: str) -> str:
    """Escaped text with true minus signs, its intervals and percentages kept on one line."""
    text = re.sub(r"(?<=[ (\[])-(?=\d)", "−", escape(text))
    return re.sub(r"(?<=\d) (?=\[|%)|(?<=\d,) (?=[\d−]+\.?\d*\])", "\u00a0", text)


def _html_figure(text: str) -> str:
    """A figure with true minus signs and dashes, its interval set apart."""
    text = re.sub(r"-(?=\d)", "−", escape(text)).replace("-", "–")
    mean, bracket, bounds = text.partition(" [")
    return f'{mean}<small class="bounds">[{bounds}</small>' if bracket else text


def _heat(text: str) -> str:
    """Style of a heat map's cell."""
    value = 0.0 if text == "-" else float(text)
    return f' class="{"above" if value >= 0 else "below"}" style="--heat:{min(1.0, abs(value)) * 60:.0f}%"'


def figures(charts: Sequence[tuple[str, str]]) -> Raw:
    """SVG with captions, side by side where there is room; a caption's first of two lines is its name."""
    found = []
    for svg, caption in charts:
        first, *rest = map(_typeset, caption.split("\n"))
        text = f"<b>{first}</b>{''.join(f'<span>{r}</span>' for r in rest)}" if rest else first
        found.append(f'<figure><div class="scroll">{svg}</div><figcaption>{text}</figcaption></figure>')
    return Raw(f'<div class="figures{" small" if len(charts) > 1 else ""}">{"".join(found)}</div>')


def markdown(title: str, lead: Sequence[str], found: Sequence[Section]) -> str:
    """The sentences and tables; charts and samples are on the page."""
    parts = [f"# {_plain(title)}", *map(_plain, lead)]
    for title, blocks in found:
        texts = [text for text in map(_markdown_block, blocks) if text]
        parts += [f"## {title}", *texts] if texts else []
    return "\n\n".join(parts) + "\n"


def _markdown_block(block: Block) -> str:
    if isinstance(block, Raw):
        return block.markdown
    return markdown_table(block) if isinstance(block, Table) else _plain(block)


def markdown_table(t: Table) -> str:
    """Figures aligned to the right."""
    names = [f"{row[0]} ({u})" if u else row[0] for row, u in zip(t.rows, t.under or [""] * len(t.rows))]
    rows = [
        [_plain(name), *(f"**{_plain(c)}**" if (i, j) in t.strong else _plain(c) for j, c in enumerate(row[1:], 1))]
        for i, (name, row) in enumerate(zip(names, t.rows))
    ]
    rule = ["---", *(["---" if t.prose else "--:"] * (len(t.head) - 1))]
    lines = ["| " + " | ".join(cells) + " |" for cells in ([_plain(h) for h in t.head], rule, *rows)]
    return "\n".join([_plain(t.caption), "", *lines])


def _plain(text: str) -> str:
    """One line that Markdown shows as it is."""
    text = re.sub(r"([\\`*|]|\[(?![-\d])|(?<!\d)\]|\](?=\())", r"\\\1", " ".join(text.split()))
    return escape(text, quote=False)


def _slug(title: str) -> str:
    return title.lower().replace(" ", "-")
