"""Snakemake with the profile of a cluster, in a copy of the checkout and for the Slurm that the tests started."""

import resource
import signal
import subprocess
import sys
from pathlib import Path

from checkout import ENVIRONMENT, TINY

FAST = str(Path(__file__).with_name("fast_snakemake.py"))
POLLING = {
    "slurm": ("--slurm-init-seconds-before-status-checks", "1"),
    "generic": ("--seconds-between-status-checks", "1"),
}
SAID = "snakemake.txt"
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


def start(folder: Path, *words: str, site: str = "site.yaml", profile: str = "slurm") -> subprocess.Popen:
    """Starts Snakemake."""
    (folder / "site.yaml").write_text(SITE)
    command = [sys.executable, FAST, "--workflow-profile", f"workflow/profiles/{profile}", *POLLING[profile]]
    command += ["--latency-wait", "5", *words, "--configfile", TINY, site]
    with (folder / SAID).open("w") as said:
        return subprocess.Popen(command, cwd=folder, env=ENVIRONMENT, stdout=said, stderr=said)


def submit(folder: Path, *words: str, seconds: float = 400, profile: str = "slurm") -> str:
    """Runs Snakemake to its good end and returns what it said."""
    process = start(folder, *words, profile=profile)
    try:
        process.wait(seconds)
    finally:
        end(process)
    said = (folder / SAID).read_text()
    assert process.returncode == 0, said
    return said


def processor_seconds() -> float:
    """Returns what ended children took of processors, which other work on this machine does not lengthen."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def end(process: subprocess.Popen) -> None:
    """Ends Snakemake and its jobs, if it still runs."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        process.wait(60)
