"""What plan_run says of GPT-J on 8 GPUs and on 256 TPU cores, and of 40 billion parameters; none of them is needed.

    python benchmarks/plans.py

Takes some minutes, most of it compiling. With libtpu and JAX's CUDA packages installed (pip install libtpu
'jax[cuda13]') the steps are compiled for TPUs and GPUs, else for simulated devices. Writes the table of plans in
docs/training.md.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

import tables
import yaml

from makelm import configfile, stages

ROOT = Path(__file__).resolve().parent.parent
VOCABULARY = 50257
RUNS = ("gptj_6b_8x80gb", "gptj_6b_v3_256", "gptj_40b_v3_256")


def row(settings, name: str, folder: Path) -> tuple[str, ...]:
    """Plans a run and returns what its row says."""
    result, execution = stages.keys("plan_run", settings, name, (ROOT / "uv.lock").read_text())
    words = ["--config", json.dumps(result), "--execution", json.dumps(execution), "--vocab-size", VOCABULARY]
    program = ROOT / "scripts/plan_run.py"
    subprocess.run([sys.executable, program, *map(str, words), "--out", folder / name], check=True)
    plan = json.loads((folder / name / "plan.json").read_text())
    seconds = json.loads((folder / name / "timings.jsonl").read_text())["compile_seconds"]
    parts, hardware = plan["bytes_per_device"], settings.run[name].hardware
    state = sum(count for part, count in parts.items() if part != "temporary")
    how = plan["method"]["temporary"].rpartition("(")[2].rstrip(")")
    if how.startswith("jaxlib"):
        how = "for simulated devices, an estimate"
    numbers = (state, parts["temporary"], sum(plan["collective_bytes"].values()))
    return (
        f"`{name}`",
        f"{hardware.devices} x {hardware.memory_gb:g} GB, {' x '.join(map(str, plan['mesh'].values()))}",
        f"{plan['parameters']:,}",
        *(f"{number / 1e9:.2f}" for number in numbers),
        f"{how}, {seconds:.0f} s",
    )


def main() -> None:
    """Plans each run and writes the table."""
    files = (ROOT / "config.yaml", ROOT / "workflow/presets/gptj_6b.yaml")
    raw = configfile.merge(*(yaml.safe_load(file.read_text()) for file in files))
    settings = configfile.load(raw)
    with tempfile.TemporaryDirectory() as folder:
        rows = [row(settings, name, Path(folder)) for name in RUNS]
    tables.write("plans", rows)
    for cells in rows:
        print(" | ".join(cells))


if __name__ == "__main__":
    main()
