"""Write the page with the results of the run, and its charts."""

from neuralood.report.write import write_report
from neuralood.stage import run

if __name__ == "__main__":
    run(write_report)
