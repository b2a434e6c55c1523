"""Fixtures of the tests on a cluster: Slurm itself, and a checkout that works on it. `make test-cluster` runs them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import slurm
from checkout import ENVIRONMENT, TINY, Checkout

FAST = str(Path(__file__).with_name("fast_snakemake.py"))
PROFILE = "workflow/profiles/slurm"
SITE = """
cluster:
  cpu: { partition: plain, account: null, qos: null, minutes: 5, memory_gb: 1.5, extra: null }
  accelerator: { partition: plain, account: null, qos: null, minutes: 10, memory_gb: 3, extra: null }
  gpus: any
  devices_per_node: 2
  nodes: 2
  process_per: node
  warn_seconds: 30
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips by name what wants a cluster where none was asked for, or none can be."""
    here = [item for item in items if item.path.parent == Path(__file__).parent and "cluster" in item.fixturenames]
    why = slurm.lacks() if here and "MAKELM_CLUSTER" in os.environ else "starts a Slurm of its own: make test-cluster"
    for item in here if why else ():
        item.add_marker(pytest.mark.skip(reason=why))


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """A Slurm that runs while the tests do."""
    made = slurm.Slurm(tmp_path_factory.mktemp("slurm"))
    try:
        made.start()
        yield made
    finally:
        made.stop()


def on_cluster(folder: Path, *words: str, site: str = "site.yaml", **options) -> subprocess.Popen:
    """Starts Snakemake with the Slurm profile in a copy of the checkout."""
    (folder / "site.yaml").write_text(SITE)
    command = [sys.executable, FAST, "--workflow-profile", PROFILE, "--slurm-init-seconds-before-status-checks", "1"]
    command += ["--latency-wait", "5", *words, "--configfile", TINY, site]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(command, cwd=folder, env=ENVIRONMENT, text=True, **pipes, **options)


def finish(process: subprocess.Popen, seconds: float = 300) -> str:
    """Returns what Snakemake said, once it has ended well."""
    said = process.communicate(timeout=seconds)[0]
    assert process.returncode == 0, said
    return said


__all__ = ["Checkout"]
