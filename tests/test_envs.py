"""The conda environments are what the lock file says, and every rule that runs something names one."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


PLATFORMS = ("cpu", "cuda", "tpu")


@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_environment_is_what_the_command_makes_of_the_lock_file(platform):
    made = runpy.run_path(str(ROOT / "envs/make_envs.py"))
    assert (ROOT / f"envs/{platform}.yaml").read_text() == made["environment"](made["locked_requirements"](platform))


@pytest.mark.parametrize(("platform", "own"), {"cpu": None, "cuda": "jax-cuda13-plugin", "tpu": "libtpu"}.items())
def test_only_a_platforms_own_packages_are_added_to_those_of_a_cpu(platform, own):
    of_cpu, of_platform = (
        set(re.findall(r'"([\w.-]+==[^" ]+)', (ROOT / f"envs/{name}.yaml").read_text())) for name in ("cpu", platform)
    )
    assert of_cpu <= of_platform
    assert (own is None) == (of_cpu == of_platform) and (own is None or any(own in name for name in of_platform))


@pytest.mark.parametrize("platform", PLATFORMS)
def test_every_package_in_it_is_pinned(platform):
    text = (ROOT / f"envs/{platform}.yaml").read_text()
    assert len(re.findall(r'(?m)^      - "[\w.-]+==[^"]+"$', text)) == text.count('      - "')
    assert not re.search(r'"(ruff|pytest|snakemake)==', text), "no developers' tools, and Snakemake runs outside"


CONDA = """#!/bin/sh
case "$*" in
*--version*) echo "conda 25.1.0" ;;
*info*) echo '{"conda_version": "25.1.0", "platform": "linux-64", "root_prefix": "/", "conda_prefix": "/"}' ;;
*) echo '{"get": {"channel_priority": "strict"}}' ;;
esac
"""


def test_what_computes_on_a_runs_devices_has_the_packages_that_the_run_names(tmp_path):
    """Snakemake asks conda what it is before it says which environments it would make."""
    (tmp_path / "conda").write_text(CONDA)
    (tmp_path / "conda").chmod(0o755)
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--sdm", "conda"]
    command += ["--cores", "1", "--list-conda-envs", "--config", "set=run.stdlib.hardware.packages=cuda"]
    path = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "PYTHONDONTWRITEBYTECODE": ""}
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | path, capture_output=True, text=True)
    assert sorted(re.findall(r"envs/(\w+)\.yaml", done.stdout)) == ["cpu", "cuda"], done.stdout + done.stderr


def test_every_rule_that_runs_something_names_one():
    for file in (ROOT / "workflow/rules").glob("*.smk"):
        for rule in re.split(r"(?m)^rule ", file.read_text())[1:]:
            named = re.search(r'conda:\n        ("../../envs/cpu.yaml"|environment)\n', rule)
            assert ("shell:" in rule) == bool(named), rule.split(":")[0]
            assert not named or (named[1] == "environment") == ("accelerator=1" in rule), rule.split(":")[0]
