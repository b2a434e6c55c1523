"""The conda environments are what the lock file says, and every rule that runs something names one."""

import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
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


def made_ready(folder: Path, *installed: str) -> str:
    """Returns what `make` tells uv where .venv has these distributions; for uv stands what repeats it."""
    packages = folder / ".venv/lib/python3.12/site-packages"
    for name in installed:
        (packages / f"{name}.dist-info").mkdir(parents=True)
    (folder / ".venv/bin").mkdir(parents=True)
    for name, text in {"uv": 'echo "$@"', "python": "true"}.items():
        (folder / ".venv/bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / ".venv/bin" / name).chmod(0o755)
    for name in ("Makefile", "pyproject.toml", "uv.lock"):
        shutil.copy(ROOT / name, folder)
    command = ["make", "--silent", ".venv/.ready"]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize(
    ("installed", "extras"),
    [
        (("jax-0.10.2", "wandb-0.31.0"), ""),
        (("jax_cuda13_plugin-0.10.2", "jax_cuda13_pjrt-0.10.2"), " --extra cuda"),
        (("libtpu-0.0.30", "gigatoken-0.1"), " --extra tpu --extra fast"),
    ],
)
def test_extras_that_are_there_stay_and_follow_the_lock_file(tmp_path, installed, extras):
    assert made_ready(tmp_path, *installed) == f"sync --locked --quiet --inexact{extras}"


def test_every_extra_is_one_that_make_knows_or_that_is_always_there():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    always = set(project["dependency-groups"]["dev"])
    chosen = {name for name, needs in project["project"]["optional-dependencies"].items() if not set(needs) <= always}
    assert set(re.findall(r"call has,(\w+),", (ROOT / "Makefile").read_text())) == chosen
