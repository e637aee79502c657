"""The report stage: metrics/report.html and the charts of it in metrics/plots/."""

from neuralood.base import console, paths
from neuralood.base.records import write_text
from neuralood.config import Params
from neuralood.report import sections
from neuralood.report.contact_sheet import contact_sheets
from neuralood.report.encoder_scores import encoder
from neuralood.report.figures import Charts
from neuralood.report.looks import attention
from neuralood.report.outputs import read_outputs
from neuralood.report.page import page


def write_report(params: Params) -> None:
    """Metrics, predictions, models, tokens of val and images -> metrics/report.html and metrics/plots/."""
    outputs = read_outputs(params)
    charts: Charts = {}
    parts = [
        sections.headline(outputs),
        sections.accuracy(outputs, params, charts),
        encoder(outputs, params, charts),
        sections.samples(outputs),
        *([contact_sheets(params)] if params.made else []),
        attention(outputs, params, charts),
        sections.training(outputs, charts),
        sections.provenance(outputs, params),
    ]
    for old in paths.PLOTS.glob("*.svg"):
        old.unlink()
    for name, svg in charts.items():
        write_text(paths.PLOTS / f"{name}.svg", svg)
    write_text(paths.REPORT, page("Brain-machine fusion against a linear probe", parts))
    size = paths.REPORT.stat().st_size / 1e6
    console.wrote(paths.REPORT, f"{size:.2f} MB, opens in any browser")
