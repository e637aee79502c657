"""Charts in the page, each with its caption and where its file and numbers lie."""

from collections.abc import Mapping
from html import escape

from neuralood.base import paths
from neuralood.base.records import write_text
from neuralood.report import page
from neuralood.report.charts import Chart, inline

Charts = dict[str, Chart]
"""The page's charts by name: what metrics/plots/ gets."""


def chart_row(charts: Mapping[str, Chart], captions: Mapping[str, str]) -> str:
    """The charts that `captions` names, side by side where there is room."""
    return page.element("div", *(chart(charts, name, caption) for name, caption in captions.items()), cls="charts")


def chart(charts: Mapping[str, Chart], name: str, caption: str) -> str:
    """One chart."""
    return page.figure(inline(charts[name].svg, name, escape(caption, quote=True)), caption, name)


def write_charts(charts: Mapping[str, Chart]) -> None:
    """NAME.svg and NAME.csv of each in metrics/plots/; what other runs left there goes."""
    for pattern in ("*.svg", "*.csv"):
        for old in paths.PLOTS.glob(pattern):
            old.unlink()
    for name, one in charts.items():
        write_text(paths.PLOTS / f"{name}.svg", one.svg)
        write_text(paths.PLOTS / f"{name}.csv", one.csv)
