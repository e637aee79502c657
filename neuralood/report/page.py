"""HTML: elements, tables and figures, and the page around them."""

from collections.abc import Sequence
from html import escape

CSS = """
:root { color-scheme: light dark; --paper: #fff; --ink: #222831; --soft: #5b6570; --line: #d9dee4; --wash: #f4f6f8;
  --right: #0a6db0; --wrong: #b4481d; --alarm: #ffd54a; }
@media screen and (prefers-color-scheme: dark) { :root { --paper: #15191e; --ink: #e4e8ec; --soft: #a3adb8;
  --line: #363e47; --wash: #1e242b; --right: #5bb3ee; --wrong: #f0935f; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1120px; padding: 24px 20px 64px; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 12px; }
h2 { font-size: 1.25rem; margin: 48px 0 4px; padding-top: 12px; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 24px 0 6px; }
h3 small { font-weight: 400; color: var(--soft); font-size: .875rem; display: block; }
p { margin: 8px 0; max-width: 78ch; }
code { font: .875em/1.4 ui-monospace, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
.banner { background: var(--alarm); color: #1b1b1b; border: 3px solid #1b1b1b; padding: 12px 16px; margin: 0 0 24px;
  font-weight: 700; max-width: none; }
.lead { font-size: 1.25rem; line-height: 1.4; font-weight: 600; margin: 16px 0; }
.note { color: var(--soft); }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); gap: 8px 20px; margin: 20px 0;
  padding: 12px 16px; background: var(--wash); }
.facts dt, figcaption { color: var(--soft); font-size: .875rem; }
.facts dd { margin: 0; overflow-wrap: anywhere; }
.charts { display: flex; flex-wrap: wrap; gap: 8px 32px; }
.charts > * { flex: 1 1 340px; max-width: 540px; margin: 12px 0; min-width: 0; }
svg { display: block; width: 100%; height: auto; }
svg text { font-family: inherit !important; }
figure { margin: 16px 0; }
figcaption { margin-top: 6px; max-width: 90ch; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9375rem; }
th, td { padding: 5px 14px 5px 0; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
thead th { font-weight: 600; color: var(--soft); vertical-align: bottom; white-space: normal; }
tr.total td { font-weight: 700; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 12px; }
.card { background: var(--wash); padding: 10px; font-size: .8125rem; line-height: 1.4; overflow-wrap: anywhere; }
.card img, .gone { display: flex; width: 96px; height: 96px; object-fit: contain; margin-bottom: 6px; }
.gone { border: 1px dashed var(--soft); color: var(--soft); align-items: center; text-align: center; }
.right, .wrong { display: block; font-weight: 600; }
.right { color: var(--right); } .wrong { color: var(--wrong); }
.card span, .card b { display: block; }
.strips td, .strips th { padding: 1px 16px 1px 0; border: 0; text-align: left; font-size: .8125rem; }
.strips img { display: block; height: 68px; }
dl.terms { display: grid; grid-template-columns: minmax(90px, 170px) 1fr; gap: 6px 16px; max-width: 90ch; }
dl.terms dt { font-weight: 600; } dl.terms dd { margin: 0; overflow-wrap: anywhere; }
figcaption small { display: block; font-size: .75rem; }
.looked { grid-template-columns: repeat(auto-fill, minmax(316px, 1fr)); }
.looked img { width: auto; max-width: 100%; }
@media print {
  @page { margin: 14mm; }
  :root { color-scheme: light; font-size: 12px; }
  body { max-width: none; padding: 0; font-size: 9.5pt; }
  h2 { margin-top: 24px; }
  .banner, .facts, .card { background: none; border: 1px solid #000; }
  figure, .charts, tr, h1, h2, h3, .card, .banner, .facts, .lead, dl.terms dd { break-inside: avoid; }
  h1, h2, h3, thead, tr:nth-child(-n+2), p:has(+ .wide), p:has(+ .charts) { break-after: avoid; }
  p { orphans: 3; widows: 3; }
  .wide { overflow: visible; } th, td { font-size: 7.5pt; padding-right: 8px; } td:last-child { white-space: normal; }
  .charts > * { flex-basis: 44%; } .strips img { height: 40px; }
  .cards { grid-template-columns: repeat(6, 1fr); gap: 6px; } .looked { grid-template-columns: repeat(3, 1fr); }
  .card { padding: 6px; font-size: 7.5pt; } .card img, .gone { width: 72px; height: 72px; }
  .looked img { width: 100%; height: auto; }
}
"""


def element(name: str, *content: str, cls: str = "") -> str:
    """An element around HTML."""
    attribute = f' class="{escape(cls)}"' if cls else ""
    return f"<{name}{attribute}>{''.join(content)}</{name}>"


def text(name: str, content: str, cls: str = "") -> str:
    """An element around plain text, which is escaped."""
    return element(name, escape(content), cls=cls)


def image(uri: str, alt: str) -> str:
    """A picture."""
    return f'<img src="{uri}" alt="{escape(alt)}">'


def figure(content: str, caption: str, name: str | None = None) -> str:
    """HTML with its caption; `name` is that of the chart which it is: its files are named."""
    if name is None:
        return element("figure", content, text("figcaption", caption))
    files = text("small", f" plots/{name}.svg, {name}.csv")
    return f'<figure id="{name}">{content}{element("figcaption", escape(caption), files)}</figure>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]], total: int | None = None) -> str:
    """A table of plain text, wide ones scroll; row `total` is set apart."""
    header = element("tr", *(text("th", cell) for cell in head))
    lines = [
        element("tr", *(text("td", cell) for cell in row), cls="total" if number == total else "")
        for number, row in enumerate(rows)
    ]
    return element("div", element("table", element("thead", header), element("tbody", *lines)), cls="wide")


def terms(entries: dict[str, str], cls: str) -> str:
    """A list of names and what belongs to them, plain text."""
    pairs = (element("div", text("dt", name), text("dd", what)) for name, what in entries.items())
    flat = (text("dt", name) + text("dd", what) for name, what in entries.items())
    return element("dl", *(pairs if cls == "facts" else flat), cls=cls)


def page(title: str, sections: Sequence[str]) -> str:
    """The whole document: no script, nothing from outside."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n"
        + "\n".join(sections)
        + "\n</body>\n</html>\n"
    )
