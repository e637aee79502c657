"""The report stage: metrics/report.html, its twin in Markdown, and its charts in metrics/plots/."""

from neuralood.base import console, paths
from neuralood.base.records import write_text
from neuralood.config import Params
from neuralood.report import sections
from neuralood.report.changed import changed
from neuralood.report.contact_sheet import contact_sheets
from neuralood.report.encoder_scores import encoder
from neuralood.report.figures import Charts, write_charts
from neuralood.report.geometry import geometry
from neuralood.report.humans import humans
from neuralood.report.looks import attention
from neuralood.report.markdown import markdown
from neuralood.report.outputs import read_outputs
from neuralood.report.page import page
from neuralood.report.provenance import provenance
from neuralood.report.robustness import robustness
from neuralood.report.study import study


def write_report(params: Params) -> None:
    """Metrics, predictions, models, tokens and images -> metrics/report.html, report.md and plots/."""
    outputs = read_outputs(params)
    charts: Charts = {}
    parts = [
        sections.headline(outputs),
        study(outputs.study, charts),
        sections.accuracy(outputs, params, charts),
        robustness(outputs.robustness, charts),
        humans(outputs.humans, charts),
        geometry(outputs.geometry, charts),
        changed(outputs, params),
        encoder(outputs, params, charts),
        sections.samples(outputs),
        *([contact_sheets(params)] if params.made else []),
        attention(outputs, params, charts),
        sections.training(outputs, charts),
        provenance(outputs, params),
    ]
    write_charts(charts)
    html = page("Brain-machine fusion: is the brain the reason?", parts)
    write_text(paths.REPORT_TWIN, markdown(html))
    write_text(paths.REPORT, html)
    size = paths.REPORT.stat().st_size / 1e6
    console.wrote(paths.REPORT, f"{size:.2f} MB, opens in any browser")
