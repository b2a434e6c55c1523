"""The conda environments are what the lock file says, and every rule that runs something names one."""

import re
import runpy
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


def test_every_rule_that_runs_something_names_it():
    for file in (ROOT / "workflow/rules").glob("*.smk"):
        for rule in re.split(r"(?m)^rule ", file.read_text())[1:]:
            assert ("shell:" in rule) == ("../../envs/cpu.yaml" in rule), rule.split(":")[0]
