"""The dress of HTML pages: one file each, without anything that a browser would fetch, and without scripts but for one
that sorts tables, on pages that ask for it.

``partitioners`` imports nothing of ``modelpar``, so what both programs write pages with is here.  Every text that comes
in is escaped; what comes out of these functions is HTML, to be put together and given to :func:`document`.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Collection, Iterable, Sequence

COLOURS = 6  # of series: the variables --c0 to --c5, each at least 4.5:1 against both backgrounds
STYLE = """
:root { color-scheme: light dark; --page: #ffffff; --panel: #f5f7f9; --text: #1c2128; --muted: #55606b;
  --line: #cfd6dd; --grid: #e4e9ed; --mark: #fff3c4; --good: #00664a; --busy: #0a5697; --bad: #a83200;
  --c0: #0063a6; --c1: #b84600; --c2: #00724f; --c3: #8a3b92; --c4: #6b5b00; --c5: #4a5560; }
@media (prefers-color-scheme: dark) { :root { --page: #10151b; --panel: #182029; --text: #e6ebf0; --muted: #a5b0bb;
  --line: #3a4653; --grid: #27313b; --mark: #3d3512; --good: #46d19f; --busy: #66b6ff; --bad: #ff9d66;
  --c0: #66b6ff; --c1: #ff9d5c; --c2: #46d19f; --c3: #dd9fe4; --c4: #d9c65c; --c5: #b5c0cb; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); font: 16px/1.5 system-ui, sans-serif; }
main, header, footer { max-width: 78rem; margin: 0 auto; padding: 0 1rem; }
header { padding-top: 1.75rem; } main { padding-bottom: 2rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.4rem 0 .8rem; padding-bottom: .3rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.2rem 0 .5rem; overflow-wrap: anywhere; }
p { margin: .5rem 0; max-width: 62rem; overflow-wrap: anywhere; } a { color: var(--busy); }
code { font: .88em ui-monospace, monospace; overflow-wrap: anywhere; }
.muted, figcaption .note, footer { color: var(--muted); } footer { font-size: .85rem; padding-bottom: 2rem; }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; margin: 1rem 0 0; font-size: .92rem; }
.state { display: inline-block; padding: 0 .6rem; border: 1px solid; border-radius: 1rem; font-size: .85rem; }
.good { color: var(--good); } .busy { color: var(--busy); } .bad { color: var(--bad); }
.notes { margin: 1rem 0; padding: .5rem .9rem .5rem 2rem; background: var(--mark); border-radius: .4rem; }
.notes li { overflow-wrap: anywhere; }
.tiles { display: grid; gap: .75rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 9.2rem), 1fr));
  margin: 1rem 0; padding: 0; }
.tiles > div { background: var(--panel); border-radius: .5rem; padding: .6rem .8rem; }
.tiles dt { color: var(--muted); font-size: .85rem; }
.tiles dd { margin: 0; font-size: 1.2rem; font-weight: 600; overflow-wrap: anywhere; }
.tiles dd small { display: block; font-size: .8rem; font-weight: 400; color: var(--muted); }
.grid { display: grid; gap: 1.2rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)); }
.grid.wide { grid-template-columns: repeat(auto-fill, minmax(min(100%, 28rem), 1fr)); }
.grid > *, figure { min-width: 0; } figure { margin: 0; } figcaption { margin-bottom: .25rem; font-weight: 600; }
figcaption .note { font-weight: 400; font-size: .85rem; display: block; }
figure img { max-width: 100%; height: auto; image-rendering: pixelated; display: block; background: #fff; }
.strip { display: grid; grid-template-columns: 6.5rem 1fr; gap: .15rem .6rem; align-items: center; font-size: .85rem; }
.strip img { width: 100%; } @media (max-width: 30rem) { .strip { grid-template-columns: 1fr; } }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 0 1rem; margin: 0; padding: 0; font-size: .85rem; }
.legend svg { width: 1.7rem; height: .7rem; margin-right: .35rem; }
.chart { width: 100%; height: auto; display: block; }
.chart text { font: 13px system-ui, sans-serif; fill: var(--text); }
.chart .axis { fill: var(--muted); } .chart .gridline { stroke: var(--grid); } .chart .frame { stroke: var(--line); }
.hit { fill: transparent; } .hit:hover { fill: var(--text); fill-opacity: .18; }
.scroll { overflow-x: auto; margin: .6rem 0; } table { border-collapse: collapse; font-size: .88rem; }
caption { text-align: left; color: var(--muted); padding-bottom: .3rem; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .7rem .25rem 0; text-align: left; vertical-align: top; }
th { font-weight: 600; } .n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td:not(.n, :first-child) { overflow-wrap: anywhere; min-width: 5.5rem; }
tr.marked { background: var(--mark); } tr.faint { color: var(--muted); }
table.sortable thead th { vertical-align: bottom; white-space: normal; }
.sortable :is(th, td) { padding: .3rem .55rem .3rem 0; }
.sortable th small { font-weight: 400; color: var(--muted); }
.sortable td:not(.n, :first-child) { min-width: 0; } .sortable { font-size: .84rem; }
.sortable th button { all: unset; box-sizing: border-box; cursor: pointer; width: 100%; text-align: inherit; }
.sortable th button:hover { text-decoration: underline; }
.sortable th button:focus-visible { outline: 2px solid var(--busy); outline-offset: 2px; }
.sortable th button::after { content: "\\a0\\2195"; color: var(--muted); font-weight: 400; }
.sortable th[aria-sort=ascending] button::after { content: "\\a0\\2191"; color: var(--busy); font-weight: 700; }
.sortable th[aria-sort=descending] button::after { content: "\\a0\\2193"; color: var(--busy); font-weight: 700; }
.sortable th[scope=row] { font-weight: 600; position: sticky; left: 0; background: var(--page);
  box-shadow: inset 0 -1px 0 var(--line); }
.placement { display: flex; gap: .8rem; flex-wrap: wrap; } .placement > div { flex: 1 1 5.5rem; max-width: 16rem; }
.placement img { width: 100%; } .placement span { font-size: .85rem; color: var(--muted); }
dl.about { font-size: .9rem; } dl.about dt { font-weight: 600; } dl.about dd { margin: 0 0 .4rem; }
details { margin: .6rem 0; } summary { cursor: pointer; }
"""
# a browser refuses whatever else a page would ask for
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
# Heads of tables of class ``sortable`` become buttons; rows are sorted by ``data-v`` of their cells, else by their
# texts, those without a value last.  Without it a table is complete, in the order in which it was written.
SORTING = """
for (const table of document.querySelectorAll('table.sortable')) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  const text = (row, i) => row.cells[i].textContent, value = (row, i) => row.cells[i].dataset.v;
  const compared = (a, b, i) => value(a, i) && value(b, i) ? value(a, i) - value(b, i)
    : text(a, i).localeCompare(text(b, i));
  heads.forEach((head, i) => {
    const button = document.createElement('button');
    button.type = 'button';
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener('click', () => {
      const down = head.getAttribute('aria-sort') === 'ascending';
      const empty = row => text(row, i) === '\u2013';
      const rows = [...body.rows].sort((a, b) => empty(a) - empty(b) || (down ? -1 : 1) * compared(a, b, i));
      body.append(...rows);
      for (const other of heads) other.removeAttribute('aria-sort');
      head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
    });
  });
}
"""

escaped = html.escape


def document(title: str, body: str, *, head: str = "", foot: str = "", sorting: bool = False) -> str:
    """A whole page.   body, head, foot: HTML, the second after the title; sorting: whether readers may sort tables

    The script that sorts is the only one that a browser runs: the policy holds its hash.
    """
    digest = base64.b64encode(hashlib.sha256(SORTING.encode()).digest()).decode("ascii")
    policy = f"{POLICY}; script-src 'sha256-{digest}'" if sorting else POLICY
    script = f"<script>{SORTING}</script>" if sorting else ""
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<title>{escaped(title)}</title><link rel='icon' href='data:,'><style>{STYLE}</style></head>\n<body>"
        f"<header><h1>{escaped(title)}</h1>{head}</header>\n<main>{body}</main>\n"
        f"{f'<footer>{foot}</footer>' if foot else ''}{script}</body></html>\n"
    )


def section(name: str, title: str, *pieces: str) -> str:
    """A part of a page that links lead to by its ``name``; empty where all pieces are."""
    inside = "\n".join(piece for piece in pieces if piece)
    return f"<section id='{escaped(name)}'><h2>{escaped(title)}</h2>\n{inside}</section>\n" if inside else ""


def paragraph(text: str, kind: str = "") -> str:
    """Empty without a text."""
    if not text:
        return ""
    return f"<p{f' class={kind!r}' if kind else ''}>{escaped(text)}</p>"


def notes(lines: Iterable[str]) -> str:
    """What a reader must know first, a line each; empty where there is nothing."""
    items = "".join(f"<li>{escaped(line)}</li>" for line in lines)
    return f"<ul class='notes'>{items}</ul>" if items else ""


def grid(*pieces: str, wide: bool = False) -> str:
    """Pieces side by side as far as there is room: three in a row of a screen, or two ``wide`` ones."""
    inside = "\n".join(piece for piece in pieces if piece)
    return f"<div class='grid{' wide' if wide else ''}'>{inside}</div>" if inside else ""


def tiles(rows: Iterable[tuple[str, str, str]]) -> str:
    """Figures that are seen at once.   rows: (name, value, small text below)"""

    def tile(name: str, value: str, below: str) -> str:
        small = f"<small>{escaped(below)}</small>" if below else ""
        return f"<div><dt>{escaped(name)}</dt><dd>{escaped(value)}{small}</dd></div>"

    inside = "".join(tile(*row) for row in rows)
    return f"<dl class='tiles'>{inside}</dl>" if inside else ""


def table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Collection[int] = (), caption: str = "",
    kinds: Sequence[str] = (), units: Sequence[str] = (), values: Sequence[Sequence[float | None]] = (),
    named_by: int | None = None, sorted_by: int | None = None,
) -> str:  # fmt: skip
    """A table that scrolls by itself where the page is too narrow for it; empty without rows.

    numbers    columns that are aligned on the right
    kinds      the class of each row, such as ``marked`` or ``faint``; none where it is empty
    units      of the columns, below their heads
    values     of all cells, by which readers may sort (see ``document``); None where the text counts
    named_by   the column that says what a row is about: it stays in sight
    sorted_by  the column by which the rows ascend already
    """
    if not rows:
        return ""

    def head(i: int, text: str) -> str:
        unit = f"<br><small>{escaped(units[i])}</small>" if units else ""
        order = " aria-sort='ascending'" if i == sorted_by else ""
        return f"<th scope='col'{' class=n' if i in numbers else ''}{order}>{escaped(text)}{unit}</th>"

    def cell(i: int, text: str, value: float | None) -> str:
        tag, scope = ("th", " scope='row'") if i == named_by else ("td", "")
        sort = f" data-v='{value!r}'" if value is not None else ""
        return f"<{tag}{scope}{' class=n' if i in numbers else ''}{sort}>{escaped(text)}</{tag}>"

    classes = [f" class='{kind}'" if kind else "" for kind in kinds] or [""] * len(rows)
    known = values or [[None] * len(row) for row in rows]
    lines = "\n".join(
        f"<tr{kind}>{''.join(map(cell, range(len(row)), row, of_row))}</tr>"
        for kind, row, of_row in zip(classes, rows, known, strict=True)
    )
    above = f"<caption>{escaped(caption)}</caption>" if caption else ""
    label = escaped(caption or ", ".join(heads))
    return (
        f"<div class='scroll' role='region' tabindex='0' aria-label='{label}'>"
        f"<table{' class=sortable' if values else ''}>{above}"
        f"<thead><tr>{''.join(map(head, range(len(heads)), heads))}</tr></thead><tbody>\n{lines}</tbody></table></div>"
    )


def details(summary: str, inside: str) -> str:
    """What is shown when it is asked for."""
    return f"<details><summary>{escaped(summary)}</summary>{inside}</details>" if inside else ""


def image(png: bytes, alt: str) -> str:
    code = base64.b64encode(png).decode("ascii")
    return f"<img alt='{escaped(alt)}' src='data:image/png;base64,{code}'>"


def picture(png: bytes, alt: str, caption: str = "", note: str = "") -> str:
    """A picture with its alternative text, and what is written above it."""
    return figure(image(png, alt), caption, note)


def figure(inside: str, caption: str = "", note: str = "") -> str:
    below = f"<span class='note'>{escaped(note)}</span>" if note else ""
    above = f"<figcaption>{escaped(caption)}{below}</figcaption>" if caption or note else ""
    return f"<figure>{above}{inside}</figure>"
