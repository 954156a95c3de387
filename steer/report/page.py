"""Render sentences, tables and charts as self-contained HTML or as Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

STYLE = """
:root{color-scheme:light dark;--paper:#fff;--wash:#f6f7f8;--ink:#1b1f24;--muted:#626b75;--rule:#dde1e5;--gold:#0b66b0;
--proxy:#b8500a}
@media(prefers-color-scheme:dark){
:root{--paper:#14171b;--wash:#1c2026;--ink:#e4e7ea;--muted:#98a2ad;--rule:#333a42;--gold:#62b0f2;--proxy:#f0a050}}
*{box-sizing:border-box}
body{margin:0 auto;padding:56px 32px 96px;max-width:1264px;background:var(--paper);color:var(--ink);
font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;
font-variant-numeric:tabular-nums}
h1{font-size:28px;line-height:1.2;letter-spacing:-.015em;font-weight:650;margin:0 0 4px}
h2{font-size:19px;letter-spacing:-.01em;font-weight:650;margin:0 0 16px}h3{font-size:13px;margin:0 0 6px}
p{max-width:76ch;margin:0 0 12px}.lead{font-size:20px;line-height:1.4;margin:28px 0 12px}
.soft,nav a,caption,figcaption,small,footer{color:var(--muted)}small{font-size:12px;font-weight:400}
.warning{border-left:3px solid var(--proxy);background:var(--wash);padding:10px 16px;margin:24px 0}
nav{display:flex;flex-wrap:wrap;gap:4px 20px;margin-top:28px;padding:10px 0;border-block:1px solid var(--rule)}
nav a{font-size:14px;text-decoration:none}nav a:hover{color:var(--ink);text-decoration:underline}
section{margin-top:56px}.scroll{overflow-x:auto;max-width:100%;margin-bottom:28px}figure .scroll{margin:0}
table{border-collapse:collapse;font-size:13px}caption{text-align:left;padding:0 0 8px;font-size:13px}
caption span{position:sticky;left:0;display:inline-block;max-width:min(100ch,100vw - 64px)}
th,td{padding:7px;text-align:right;vertical-align:top;white-space:nowrap;border-bottom:1px solid var(--rule)}
thead th{white-space:normal;font-weight:500;font-size:12.5px;vertical-align:bottom}
thead th{color:var(--muted);border-color:var(--muted)}
th:first-child{text-align:left;padding-left:0;font-weight:550;position:sticky;left:0;background:var(--paper)}
td small,th small{display:block}.barred{display:flex;gap:8px;justify-content:space-between}
th[scope=row]{white-space:normal;min-width:150px;max-width:250px}.prose td,.prose th{text-align:left}
.prose td{white-space:normal;overflow-wrap:anywhere}.heat th{border:0;min-width:0}.heat thead th{text-align:center}
.heat td{min-width:72px;text-align:center;border:2px solid var(--paper);print-color-adjust:exact}
.heat .above{background:color-mix(in srgb,var(--gold) var(--heat),transparent)}
.heat .below{background:color-mix(in srgb,var(--proxy) var(--heat),transparent)}
.pair,.figures{display:flex;flex-wrap:wrap;gap:24px 48px}.pair{align-items:flex-end}.figures{margin:12px 0 28px}
figure{margin:0;max-width:100%}figcaption{font-size:13px;max-width:70ch;margin-top:6px}.small{gap:24px 36px}
.small figure{width:256px}.small figcaption{font-size:12.5px}figcaption b{color:var(--ink)}figcaption *{display:block}
svg{display:block;font-size:12px;fill:currentColor}svg path{fill:none}svg .soft{fill:var(--muted)}
svg .label{paint-order:stroke;stroke:var(--paper);stroke-width:3px}.bar{margin-top:2px;flex:none}.bar circle{r:2.8px}
.grid{stroke:var(--rule)}.axis{stroke:var(--muted)}.mark{stroke:var(--ink);stroke-dasharray:3 3}
.family{stroke:var(--gold);stroke-width:1.2;opacity:.45}
svg .gold{stroke:var(--gold)}svg .proxy{stroke:var(--proxy)}.error,.curve{stroke-width:1.8}.error.gold{opacity:.7}
svg .dot.gold{fill:var(--gold);stroke:none}svg .dot.proxy{fill:var(--paper);stroke-width:1.6}
svg .band{stroke:none;opacity:.16}svg .band.gold{fill:var(--gold)}svg .band.proxy{fill:var(--proxy)}
.prompt,article{background:var(--wash);border-radius:6px;padding:12px 16px;white-space:pre-wrap;overflow-wrap:anywhere}
.prompt{background:none;border-left:3px solid var(--rule);border-radius:0;margin:0 0 12px}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(250px,100%),1fr));gap:12px;margin-bottom:32px}
article{white-space:normal;display:flex;flex-direction:column}article p{white-space:pre-wrap;flex:1;font-size:13.5px}
footer{font-size:12px}footer span{margin-right:10px;white-space:nowrap}
pre{background:var(--wash);border-radius:6px;padding:14px 16px;overflow-x:auto;font-size:13px;white-space:pre-wrap}
@media(max-width:600px){th[scope=row]{min-width:110px;max-width:130px;overflow-wrap:anywhere}
body{padding:28px 16px 64px}.lead{font-size:18px}section{margin-top:40px}}
@media print{@page{size:A4 landscape;margin:12mm}body{padding:0;max-width:none;font-size:10pt}
nav{display:none}.scroll{overflow:visible}tr,figure,article{break-inside:avoid}h2,section>p,.prompt{break-after:avoid}
section{margin-top:32px}th,td{padding:4px 7px}table{font-size:8.5pt}}
"""


class Table(NamedTuple):
    """Rows of text and figures, named by the first column; `strong` holds the (row, column) of bold cells."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    strong: frozenset[tuple[int, int]] = frozenset()
    under: Sequence[str] = ()  # second line of a row's name
    bars: Sequence[str] = ()  # SVG beside a row's first figure
    heat: bool = False  # colour the cells by their value, -1 to 1
    prose: bool = False  # all columns are text


class Raw(NamedTuple):
    """A block rendered already, for the page and for Markdown."""

    html: str
    markdown: str = ""


Block = str | Table | Raw
Section = tuple[str, Sequence[Block]]


def html(title: str, facts: str, lead: Sequence[str], sections: Sequence[Section], *, warned: bool) -> str:
    """Render a page without scripts whose policy forbids loading anything. `warned`: lead[0] is a warning."""
    title = escape(title)
    links = " ".join(f'<a href="#{_slug(name)}">{name}</a>' for name, _ in sections)
    head = [f'<p class="warning">{escape(lead[0])}</p>'] if warned else []
    head += [f"<p{' class=lead' if i == 0 else ''}>{_typeset(text)}</p>" for i, text in enumerate(lead[warned:])]
    body = "".join(
        f'<section id="{_slug(name)}"><h2>{name}</h2>{"".join(map(_html_block, blocks))}</section>'
        for name, blocks in sections
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style></head><body><header>"
        f'<h1>{title}</h1><p class="soft">{escape(facts)}</p>{"".join(head)}<nav>{links}</nav></header>'
        f"<main>{body}</main></body></html>\n"
    )


def _html_block(block: Block) -> str:
    if isinstance(block, Raw):
        return block.html
    return html_table(block) if isinstance(block, Table) else f"<p>{_typeset(block)}</p>"


def html_table(t: Table) -> str:
    """Render a table with a caption; figures to the right, an interval below its figure."""
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
    """Escape text, set true minus signs, and keep intervals and percentages on one line."""
    text = re.sub(r"(?<=[ (\[])-(?=\d)", "−", escape(text))
    return re.sub(r"(?<=\d) (?=\[|%)|(?<=\d,) (?=[\d−]+\.?\d*\])", "\u00a0", text)


def _html_figure(text: str) -> str:
    """Render a figure with true minus signs and dashes, its interval in a smaller line."""
    text = re.sub(r"-(?=\d)", "−", escape(text)).replace("-", "–")
    mean, bracket, bounds = text.partition(" [")
    return f'{mean}<small class="bounds">[{bounds}</small>' if bracket else text


def _heat(text: str) -> str:
    """Class and style of a heat map's cell."""
    value = 0.0 if text == "-" else float(text)
    return f' class="{"above" if value >= 0 else "below"}" style="--heat:{min(1.0, abs(value)) * 60:.0f}%"'


def figures(charts: Sequence[tuple[str, str]]) -> Raw:
    """Render charts, (SVG, caption) each, side by side where there is room; a caption's first of two lines is bold."""
    parts = []
    for svg, caption in charts:
        first, *rest = map(_typeset, caption.split("\n"))
        text = f"<b>{first}</b>{''.join(f'<span>{r}</span>' for r in rest)}" if rest else first
        parts.append(f'<figure><div class="scroll">{svg}</div><figcaption>{text}</figcaption></figure>')
    return Raw(f'<div class="figures{" small" if len(charts) > 1 else ""}">{"".join(parts)}</div>')


def markdown(title: str, lead: Sequence[str], sections: Sequence[Section]) -> str:
    """Render sentences and tables; charts and samples are only on the page."""
    parts = [f"# {_plain(title)}", *map(_plain, lead)]
    for title, blocks in sections:
        texts = [text for text in map(_markdown_block, blocks) if text]
        parts += [f"## {title}", *texts] if texts else []
    return "\n\n".join(parts) + "\n"


def _markdown_block(block: Block) -> str:
    if isinstance(block, Raw):
        return block.markdown
    return markdown_table(block) if isinstance(block, Table) else _plain(block)


def markdown_table(t: Table) -> str:
    """Render a table with figures aligned to the right."""
    names = [f"{row[0]} ({u})" if u else row[0] for row, u in zip(t.rows, t.under or [""] * len(t.rows))]
    rows = [
        [_plain(name), *(f"**{_plain(c)}**" if (i, j) in t.strong else _plain(c) for j, c in enumerate(row[1:], 1))]
        for i, (name, row) in enumerate(zip(names, t.rows))
    ]
    rule = ["---", *(["---" if t.prose else "--:"] * (len(t.head) - 1))]
    lines = ["| " + " | ".join(cells) + " |" for cells in ([_plain(h) for h in t.head], rule, *rows)]
    return "\n".join([_plain(t.caption), "", *lines])


def _plain(text: str) -> str:
    """Escape a text as one line that Markdown shows literally."""
    text = re.sub(r"([\\`*|]|\[(?![-\d])|(?<!\d)\]|\](?=\())", r"\\\1", " ".join(text.split()))
    return escape(text, quote=False)


def _slug(title: str) -> str:
    return title.lower().replace(" ", "-")
