"""Snakemake with the Slurm profile, in a copy of the checkout and for the Slurm that the tests started."""

import subprocess
import sys
from pathlib import Path

from checkout import ENVIRONMENT, TINY

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


def start(folder: Path, *words: str) -> subprocess.Popen:
    """Starts Snakemake."""
    (folder / "site.yaml").write_text(SITE)
    command = [sys.executable, FAST, "--workflow-profile", PROFILE, "--slurm-init-seconds-before-status-checks", "1"]
    command += ["--latency-wait", "5", *words, "--configfile", TINY, "site.yaml"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(command, cwd=folder, env=ENVIRONMENT, text=True, **pipes)


def submit(folder: Path, *words: str, seconds: float = 400) -> str:
    """Runs Snakemake to its good end and returns what it said."""
    process = start(folder, *words)
    said = process.communicate(timeout=seconds)[0]
    assert process.returncode == 0, said
    return said
