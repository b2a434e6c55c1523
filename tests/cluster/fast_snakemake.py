"""Snakemake whose Slurm plugin asks for states each second; itself it waits 10 seconds, then ever longer."""

import sys

import snakemake_executor_plugin_slurm
from snakemake.cli import main

snakemake_executor_plugin_slurm.Executor.next_seconds_between_status_checks = property(
    lambda self: 1.0, lambda self, value: None
)
sys.exit(main())
