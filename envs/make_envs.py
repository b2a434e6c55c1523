"""Writes the conda environments in this folder from uv.lock; `make lock` calls it.

They hold exactly what the stages run on: no developers' tools, and not Snakemake, which runs outside of them.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from packaging.markers import Marker

FOLDER = Path(__file__).resolve().parent
PYTHON, PIP = "3.12.11", "25.1.1"  # the lock file leaves these open
VERSIONS = {"python_full_version": PYTHON, "python_version": PYTHON.rpartition(".")[0]}
# Snakemake, how it submits jobs, and what serves a model: they run outside of these environments
WORKFLOW = ("snakemake", "snakemake-executor-plugin-slurm", "snakemake-executor-plugin-cluster-generic")
OUTSIDE = (*WORKFLOW, "starlette", "uvicorn")  # prometheus-client is Orbax's too
SYSTEMS = [
    {"sys_platform": "linux", "platform_machine": "x86_64"},
    {"sys_platform": "darwin", "platform_machine": "arm64"},
]


PLATFORMS = {
    "cpu": SYSTEMS,
    "cuda": SYSTEMS[:1],
    "tpu": SYSTEMS[:1],
}  # what JAX computes on -> systems it can be had for


def locked_requirements(platform: str) -> list[str]:
    """Returns what uv.lock pins for the stages on a platform, one requirement per entry."""
    uv = shutil.which("uv", path=str(Path(sys.executable).parent))
    assert uv, "uv belongs to the environment that make sets up"
    flags = ["--locked", "--no-default-groups", "--no-hashes", "--no-annotate", "--no-header", "--no-emit-project"]
    outside = [word for package in OUTSIDE for word in ("--prune", package)]
    # tasks are asked where devices are: nobody could add to an environment there what an extra names
    extra = [word for name in ("eval", platform) if name != "cpu" for word in ("--extra", name)]
    export = [uv, "export", "--quiet", "--format", "requirements.txt", *flags, *outside, *extra]
    text = subprocess.run(export, cwd=FOLDER.parent, check=True, capture_output=True, text=True).stdout
    return [short for line in text.splitlines() if (short := without_python(line, PLATFORMS[platform]))]


def without_python(line: str, systems: list[dict]) -> str:
    """Returns a requirement with its marker cut down to what is open when Python's version is known."""
    requirement, _, marker = line.partition(" ; ")
    system_names = [
        system["sys_platform"] for system in systems if not marker or Marker(marker).evaluate({**system, **VERSIONS})
    ]
    if len(system_names) == len(systems):
        return requirement
    return f"{requirement} ; sys_platform == '{system_names[0]}'" if system_names else ""


def environment(requirements: list[str]) -> str:
    """Returns the text of a conda environment."""
    lines = [f'      - "{requirement}"' for requirement in requirements]
    return "\n".join(
        [
            "# Made from uv.lock by envs/make_envs.py; `make lock` writes it anew.",
            "channels:",
            "  - conda-forge",
            "  - nodefaults",
            "dependencies:",
            f"  - python ={PYTHON}",
            f"  - pip ={PIP}",
            "  - pip:",
            *lines,
            "",
        ]
    )


if __name__ == "__main__":
    for platform in PLATFORMS:
        (FOLDER / f"{platform}.yaml").write_text(environment(locked_requirements(platform)))
