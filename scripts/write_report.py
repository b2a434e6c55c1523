"""Stage write_report: what all stages left -> a page to look at and a table.

Reads, below --results, the manifests of plan_run, train_model, sample_model, evaluate_model and export_model of each
run, of its tasks those of evaluate_task, and the small files they list, and through them the manifests of everything
the runs were made from. Writes report.html, one file that opens without a network, and runs.csv, one row per run.
"""

import argparse
from datetime import UTC, datetime
from pathlib import Path

from makelm import cli, report, report_runs, report_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--results", type=Path, required=True, help="the folder that holds the stages' folders")


def write_report(job: cli.Job) -> None:
    """Writes the page and the table of all runs."""
    names = {run: job.config.tasks[run] for run in job.config.runs}
    runs = report_runs.read_runs(job.args.results, names, job.read_input)
    written = datetime.fromtimestamp(job.started, UTC).strftime("%d %B %Y, %H:%M UTC")
    (job.staging / "report.html").write_text(report.page(runs, written), encoding="utf-8")
    (job.staging / "runs.csv").write_text(report_table.table_csv(runs), encoding="utf-8")
    job.publish({"runs": len(runs)}, measured=("report.html",))


if __name__ == "__main__":
    cli.run("write_report", __doc__, write_report, add_arguments)
