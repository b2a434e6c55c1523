"""The report: everything known about the runs of a results folder, as one page."""

import math

from makelm import pages, report_tasks, samples_page
from makelm.pages import COLOURS
from makelm.report_comparison import best, comparisons
from makelm.report_curves import CURVES, series
from makelm.report_figures import figures
from makelm.report_origin import places, steps
from makelm.report_runs import Run
from makelm.report_table import columns, of_entries, rows, varied

MOST_SAMPLES = 24


def page(runs: list[Run], written: str) -> str:
    """Returns the report; `written` says when."""
    names, entries, table = varied(runs), of_entries(runs), rows(runs)
    views = [view(run, names, number) for number, run in enumerate(runs)]
    return pages.render(
        "report.html.j2",
        runs=views,
        written=written,
        comparisons=comparisons(runs),
        tasks=report_tasks.table([(run.name, run.tasks) for run in runs]),
        columns=columns(names, entries, table),
        apart=any(name in entries for name in names),
        table=table,
        best=best(runs),
        curves={name: label for name, label in CURVES.items() if label},
        series=[
            {"name": run.name, "colour": number % COLOURS, **series(run, runs)}
            for number, run in enumerate(runs)
            if run.metrics  # of no step there is no curve
        ],
    )


def view(run: Run, names: list[str], number: int) -> dict:
    """Returns what the page shows of one run."""
    shown = run.samples[:: math.ceil(len(run.samples) / MOST_SAMPLES)]
    return {
        "name": run.name,
        "colour": number % COLOURS,
        "figures": figures(run),
        "samples": samples_page.views(shown),
        "common": samples_page.common(shown),
        "hidden_samples": len(run.samples) - len(shown),
        "config": config(run, names),
        "plan": plan(run),
        "steps": steps(run),
        "places": places(run),
        "gaps": run.gaps,
    }


def config(run: Run, names: list[str]) -> dict[str, list[dict]]:
    """Returns section -> its keys; those that differ between the runs are marked."""
    sections: dict[str, list[dict]] = {}
    for name, value in run.keys().items():
        section, _, key = name.rpartition(".")
        sections.setdefault(section or "data", []).append({"key": key, "value": value, "varied": name in names})
    architecture = run.facts("export_model")["architecture"]
    sections.setdefault("export", []).append({"key": "architecture", "value": architecture, "varied": False})
    return sections


def plan(run: Run) -> list[tuple[str, str]]:
    """Returns what plan_run foresaw."""
    memory = [(name, pages.size(amount)) for name, amount in run.plan["bytes_per_device"].items()]
    return [
        ("devices", str(run.plan["devices"])),
        ("FLOPs per token", pages.count(run.plan["flops_per_token"])),
        *memory,
    ]
