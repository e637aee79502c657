"""Charts in a row of the page, each with its caption."""

from collections.abc import Mapping
from html import escape

from neuralood.report import page
from neuralood.report.charts import inline

Charts = dict[str, str]
"""The SVG of each chart by its name: what metrics/plots/ gets."""


def chart_row(charts: Mapping[str, str], captions: Mapping[str, str]) -> str:
    """The charts that `captions` names, side by side where there is room."""
    return page.element("div", *(chart(charts, name, caption) for name, caption in captions.items()), cls="charts")


def chart(charts: Mapping[str, str], name: str, caption: str) -> str:
    """One chart."""
    return page.figure(inline(charts[name], name, escape(caption, quote=True)), caption)
