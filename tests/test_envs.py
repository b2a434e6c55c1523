"""The conda environments are what the lock file says, and every rule that runs something names one."""

import re
import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_the_environment_is_what_the_command_makes_of_the_lock_file():
    made = runpy.run_path(str(ROOT / "envs/make_envs.py"))
    assert (ROOT / "envs/cpu.yaml").read_text() == made["environment"](made["locked_requirements"]())


def test_every_package_in_it_is_pinned():
    text = (ROOT / "envs/cpu.yaml").read_text()
    assert len(re.findall(r'(?m)^      - "[\w.-]+==[^"]+"$', text)) == text.count('      - "')
    assert not re.search(r'"(ruff|pytest|snakemake)==', text), "no developers' tools, and Snakemake runs outside"


def test_every_rule_that_runs_something_names_it():
    for file in (ROOT / "workflow/rules").glob("*.smk"):
        for rule in re.split(r"(?m)^rule ", file.read_text())[1:]:
            assert ("shell:" in rule) == ("../../envs/cpu.yaml" in rule), rule.split(":")[0]
