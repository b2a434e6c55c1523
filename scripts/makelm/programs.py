"""Compiled programs, kept so that the next start of a stage finds them: JAX's persistent compilation cache."""

import hashlib
import os
import platform
import sys
from pathlib import Path

FOLDER = "JAX_COMPILATION_CACHE_DIR"  # as JAX itself calls it; the workflow sets it
MAX_BYTES = 2 << 30  # of one folder; the programs that were not used for longest go first
PROCESSORS = Path("/proc/cpuinfo")


def keep(cores: int, folder: Path | None = None) -> None:
    """Has JAX keep its programs in the folder that the environment names, else in this one, if there is one.

    Those for each kind of machine lie apart.

    JAX tells programs by what they compute and for which accelerator. It knows neither the processor, whose
    instructions another one may lack, nor the number of threads that XLA divides the work for, on which last digits
    depend.
    """
    root = os.environ.get(FOLDER) or folder
    jax = sys.modules.get("jax")  # a stage that does not compute has not imported it
    if root and jax:
        jax.config.update("jax_compilation_cache_dir", str(Path(root) / f"{processor()}-{cores}"))
        jax.config.update("jax_compilation_cache_max_size", MAX_BYTES)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def of_workflow(run: Path) -> Path | None:
    """Returns where the workflow that made a run (results/train_model/NAME) keeps programs, if that is at hand."""
    place = run.resolve().parent.parent.parent / ".snakemake"
    return place / "compiled" if place.is_dir() else None


def processor() -> str:
    """Returns a short name of the processor and the instructions that it has."""
    text = PROCESSORS.read_text() if PROCESSORS.exists() else platform.processor()
    known = sorted({line for line in text.splitlines() if line.startswith(("model name", "flags", "Features", "CPU"))})
    return hashlib.sha256("\n".join(known or [text]).encode()).hexdigest()[:12]
