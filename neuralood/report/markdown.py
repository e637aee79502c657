"""The page as Markdown for papers: its words and tables, and links to its charts; pictures stay on the page."""

from collections.abc import Sequence
from html.parser import HTMLParser

BLOCKS = {"h1": "# ", "h2": "## ", "h3": "### ", "p": "", "div": ""}
"""Elements that are a paragraph of their own, and what that begins with."""
INLINE = {"b": "**", "code": "`"}
LEFT_OUT = ("svg", "style", "title", "small")
PICTURES = "pictures"
"""Class of elements that are of pictures only."""
VOID = ("img", "meta", "br")


def markdown(html: str) -> str:
    """What the page says; a chart is a link to plots/NAME.svg beside the text."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    return "\n\n".join(reader.blocks) + "\n"


class _Reader(HTMLParser):
    """Reads the elements that `page` writes."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks: list[str] = []
        self._text: list[str] = []
        self._rows: list[list[str]] = []
        self._name: str | None = None
        """Of the chart being read."""
        self._term = ""
        self._hidden: list[str] = []
        """Open elements from the outermost one that is left out."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in VOID:
            return
        named = dict(attrs)
        is_picture = named.get("class") == PICTURES or (tag == "figure" and "id" not in named)
        if self._hidden or is_picture or tag in LEFT_OUT:
            self._hidden.append(tag)
        elif tag in INLINE:
            self._text.append(INLINE[tag])
        elif tag in ("figure", "table"):
            self._flush("")
            self._name, self._rows = named.get("id"), []
        elif tag == "tr":
            self._rows.append([])
        elif tag in (*BLOCKS, "dt"):
            self._flush("")

    def handle_endtag(self, tag: str) -> None:
        if self._hidden:
            self._hidden.pop()
        elif tag in INLINE:
            self._text.append(INLINE[tag])
        elif tag in ("td", "th"):
            self._rows[-1].append(self._taken().replace("|", r"\|"))
        elif tag == "table":
            self.blocks.append(_table(self._rows))
        elif tag == "figcaption":
            self.blocks += [f"![{self._name}](plots/{self._name}.svg)", f"*{self._taken()}*"]
        elif tag == "dt":
            self._term = self._taken()
        elif tag == "dd":
            self.blocks.append(f"- **{self._term}**: {self._taken()}")
        elif tag in BLOCKS:
            self._flush(BLOCKS[tag])

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self._text.append(data.replace("<", "&lt;"))

    def _taken(self) -> str:
        found = " ".join("".join(self._text).split())
        self._text = []
        return found

    def _flush(self, start: str) -> None:
        """What was read so far as a block."""
        if found := self._taken():
            self.blocks.append(start + found)


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells, the first one the head, as a table whose numbers are right-aligned."""
    head, *body = rows
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
