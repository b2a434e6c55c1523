"""The least that a training step can take: its products of matrices alone, by XLA and by PyTorch, taking turns.

    python benchmarks/products.py [--rounds 5]

In the shapes of train_step.py, float32, without attention's own products: what no formulation of the rest can save.
"""

import argparse
from pathlib import Path
from statistics import median

from recording import Table, record
from train_step import SHAPES
from turns import OWN, Worker, by_turns, python_of_peers

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 2.0  # of one turn, about


def products(shape: dict) -> list[tuple[int, int, int]]:
    """Returns (rows, in, out) of each matrix that a step multiplies with."""
    rows, D = shape["batch"] * shape["context"], shape["width"]
    layer = [(rows, D, D)] * 4 + [(rows, D, 4 * D), (rows, 4 * D, D)]
    return layer * shape["layers"] + [(rows, D, shape["vocabulary"])]


def main() -> None:
    """Measures and records."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--python", type=Path, default=ROOT / ".venv-bench/bin/python", help="that PyTorch is in")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    table, results = Table("shape", "GFLOP", "XLA, ms", "GFLOP/s", "PyTorch, ms", "GFLOP/s"), []
    for name, shape in SHAPES.items():
        all_of_them = products(shape)
        task = {"products": all_of_them}
        workers = {
            "xla": Worker("products_xla", ROOT / ".venv/bin/python", task, OWN),
            "torch": Worker("products_torch", python_of_peers(options.python), task),
        }
        steps = max(1, round(SECONDS / workers["xla"](1)))
        seconds = {who: median(found) / steps for who, found in by_turns(workers, steps, options.rounds).items()}
        for worker in workers.values():
            worker.stop()
        flop = 3 * sum(2 * rows * before * after for rows, before, after in all_of_them)
        results.append({"shape": name, "flop": flop, "seconds": seconds})
        cells = [[f"{each * 1e3:,.1f}", f"{flop / each / 1e9:,.0f}"] for each in seconds.values()]
        table.add([name, f"{flop / 1e9:,.1f}", *cells[0], *cells[1]])
        print(results[-1], flush=True)
    record("products", results, table)


if __name__ == "__main__":
    main()
