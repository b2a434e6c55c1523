"""Stage download_task: an entry of `task:` -> its questions, and how lm-eval asks them.

Reads a task that comes with lm-eval, whose data are on the hub (HF_HOME, HF_HUB_OFFLINE, HF_TOKEN), or a YAML file of
this machine. Writes task/ (the YAML and the Python beside it), data/<split>.parquet and manifest.json.
"""

import tempfile
from pathlib import Path

from makelm import cli, tasks


def download_task(job: cli.Job) -> None:
    """Brings a task's questions here."""
    tasks.check_installed()
    with tempfile.TemporaryDirectory() as scratch:
        facts = tasks.bring(job.config.task, job.staging, Path(scratch))
    rows = ", ".join(f"{count:,} in {split}" for split, count in facts["splits"].items())
    job.say(f"{facts['name']}: {rows}")
    job.publish(facts)


if __name__ == "__main__":
    cli.run("download_task", __doc__, download_task)
