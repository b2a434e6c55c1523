#!/usr/bin/env python3
"""Submits the job script that Snakemake gives and prints the job's number."""

import os
import sys
from pathlib import Path

from snakemake.utils import read_job_properties

# a job's resource -> how sbatch is told
OPTIONS = {
    "slurm_partition": "--partition={}",
    "slurm_account": "--account={}",
    "qos": "--qos={}",
    "runtime": "--time={}",
    "mem_mb": "--mem={}",
    "nodes": "--nodes={}",
    "tasks": "--ntasks={}",
    "gpu": "--gpus={}",
}

script = sys.argv[-1]
job = read_job_properties(script)
resources = job["resources"]
name = "-".join([job.get("rule", "group"), *job.get("wildcards", {}).values()])
logs = Path("logs/slurm")
logs.mkdir(parents=True, exist_ok=True)
if "gpu_model" in resources:
    resources["gpu"] = f"{resources['gpu_model']}:{resources['gpu']}"
words = [option.format(resources[key]) for key, option in OPTIONS.items() if key in resources]
words += [f"--cpus-per-task={resources.get('cpus_per_task', job.get('threads', 1))}"]
words += str(resources.get("slurm_extra", "")).split()
words += ["--parsable", "--requeue", f"--job-name={name}", f"--comment=rule_{name}", f"--output={logs}/{name}-%j.log"]
os.execvp("sbatch", ["sbatch", *words, script])
