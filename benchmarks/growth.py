"""How the time of a training step grows with the model, the batch and the devices.

    python benchmarks/growth.py [--rounds 5]

From one base, each size is changed by itself; base and changed step take turns. Devices are simulated: they share the
same cores, so what they cost more than one is what sharding adds.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from recording import Table, record
from train_step import COMPUTE
from turns import OWN, Worker, by_turns, ratio

ROOT = Path(__file__).resolve().parent.parent
BASE = {"layers": 4, "width": 256, "heads": 4, "context": 256, "batch": 8, "vocabulary": 4096}
CHANGES = {
    "layers": (8,),
    "width": (512,),
    "context": (512, 1024),
    "batch": (16,),
    "vocabulary": (16384, 50304),
    "devices": (2, 8),
}
STEPS = 5


def start(shape: dict, tokens: Path) -> Worker:
    """Starts training in a shape, over simulated devices where it says so."""
    task = shape | {"tokens": str(tokens), "dtype": "float32", "architecture": "picodo", "compute": COMPUTE}
    devices = f"--xla_force_host_platform_device_count={shape.get('devices', 1)}"
    return Worker("makelm_steps", ROOT / ".venv/bin/python", task, OWN | {"XLA_FLAGS": devices})


def main() -> None:
    """Measures and records."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    table, results = Table("size", "from", "to", "step takes, times"), []
    with tempfile.TemporaryDirectory() as folder:
        tokens = Path(folder) / "tokens.bin"
        np.random.default_rng(0).integers(0, BASE["vocabulary"], 1_000_000).astype(np.uint16).tofile(tokens)
        base = start(BASE, tokens)
        for size, values in CHANGES.items():
            for value in values:
                changed = start(BASE | {size: value}, tokens)
                seconds = by_turns({"base": base, "changed": changed}, STEPS, options.rounds)
                times = ratio(seconds["changed"], seconds["base"])
                changed.stop()
                results.append({"size": size, "from": BASE.get(size, 1), "to": value, "times": times})
                table.add([size, f"{BASE.get(size, 1):,}", f"{value:,}", f"{times:.2f}"])
        base.stop()
    record("growth", {"base": BASE, "changes": results}, table)


if __name__ == "__main__":
    main()
