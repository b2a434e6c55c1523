"""How fast a training step is, beside those of nanoGPT, picodo and NanoDO: the same model, batch, dtype and optimizer.

    make bench PEERS=<folder with checkouts nanoGPT, picodo, nanodo>
    python benchmarks/train_step.py --peers <folder> [--shapes a b c] [--only nanogpt] [--rounds 5]

A peer and makelm in the peer's architecture take turns, each in a process of its own: so many steps each, in every
round, batches and the reading of the loss included. Compiling stands apart. A peer that is missing is said to be.
"""

import argparse
import json
import tempfile
from pathlib import Path
from statistics import median

import numpy as np
from recording import Table, record
from turns import OWN, Worker, by_turns, python_of_peers, ratio

ROOT = Path(__file__).resolve().parent.parent
SHAPES = {
    "a": {"layers": 4, "width": 128, "heads": 4, "context": 64, "batch": 12, "vocabulary": 65},
    "b": {"layers": 6, "width": 384, "heads": 6, "context": 256, "batch": 16, "vocabulary": 65},
    "c": {"layers": 6, "width": 256, "heads": 4, "context": 256, "batch": 16, "vocabulary": 4096},
}
COMPUTE = {"attention": "xla", "scan_layers": False, "remat": False, "accumulate": 1, "deterministic": True}
CHECKOUTS = {"nanogpt": "nanoGPT", "picodo": "picodo", "nanodo": "nanodo"}
SECONDS = 4.0  # of one turn, about
TO_STEPS = 1000  # steps that "time to" is about


def measure(peer: str, shape: dict, options: argparse.Namespace, tokens: Path) -> dict:
    """Returns what one peer and makelm did in one shape."""
    common = shape | {"tokens": str(tokens), "dtype": options.dtype, "device": options.device, "compile": True}
    checkout = options.peers / CHECKOUTS[peer]
    own = {"architecture": peer, "compute": COMPUTE | {"attention": options.attention}}
    workers = {
        peer: Worker(f"{peer}_steps", options.python, common | {"checkout": str(checkout)}),
        "makelm": Worker("makelm_steps", ROOT / ".venv/bin/python", common | own, OWN),
    }
    steps = max(1, round(SECONDS / (workers["makelm"](10) / 10)))
    seconds = by_turns(workers, steps, options.rounds)
    per_step = {name: median(found) / steps for name, found in seconds.items()}
    started = {name: worker.seconds_to_start for name, worker in workers.items()}
    found = {
        "parameters": {name: worker.facts["parameters"] for name, worker in workers.items()},
        "first_loss": {name: worker.facts["first_loss"] for name, worker in workers.items()},
        "steps_of_a_turn": steps,
        "tokens_per_second": {n: shape["batch"] * shape["context"] / s for n, s in per_step.items()},
        "ratio": ratio(seconds[peer], seconds["makelm"]),
        "compile_seconds": {name: worker.facts["compile_seconds"] for name, worker in workers.items()},
        f"seconds_to_{TO_STEPS}_steps": {name: started[name] + TO_STEPS * per_step[name] for name in workers},
        "versions": workers[peer].facts["versions"] | workers["makelm"].facts["versions"],
    }
    for worker in workers.values():
        worker.stop()
    return found


def row(name: str, peer: str, found: dict) -> list:
    """Returns a line of the table."""
    rate, to = found["tokens_per_second"], found[f"seconds_to_{TO_STEPS}_steps"]
    numbers = [f"{rate[peer]:,.0f}", f"{rate['makelm']:,.0f}", f"**{found['ratio']:.2f}**"]
    pairs = [f"{both[peer]:.0f}, {both['makelm']:.0f}" for both in (found["compile_seconds"], to)]
    return [name, peer, *numbers, *pairs]


def main() -> None:
    """Measures and records."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peers", type=Path, required=True, help="folder with the checkouts")
    parser.add_argument("--python", type=Path, default=ROOT / ".venv-bench/bin/python", help="that the peers run on")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--only", nargs="+", choices=CHECKOUTS, default=list(CHECKOUTS), metavar="PEER")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="of nanoGPT; JAX finds its own")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--attention", default="xla", choices=("xla", "cudnn"))
    parser.add_argument("--dry", action="store_true", help="print only, record nothing")
    options = parser.parse_args()
    python_of_peers(options.python)
    present = [name for name in options.only if (options.peers / CHECKOUTS[name]).is_dir()]
    for name in sorted(set(options.only) - set(present)):
        print(f"{name}: {options.peers / CHECKOUTS[name]} is not there; left out")
    titles = ("tokens/s of the peer", "of makelm", "times as fast", "first step, s", f"{TO_STEPS} steps, s")
    table = Table("shape", "peer", *titles)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.shapes:
            tokens = Path(folder) / f"{name}.bin"
            vocabulary = SHAPES[name]["vocabulary"]
            np.random.default_rng(0).integers(0, vocabulary, 1_000_000).astype(np.uint16).tofile(tokens)
            for peer in present:
                found = measure(peer, SHAPES[name], options, tokens)
                results.append({"shape": name, "peer": peer} | SHAPES[name] | found)
                table.add(row(name, peer, found))
                print(json.dumps(results[-1]), flush=True)
    if options.dry:
        print(table)
    else:
        record("train_step", results, table, missing=sorted(set(CHECKOUTS) - set(present)))


if __name__ == "__main__":
    main()
