"""How much of an accelerator's peak a training step reaches, beside nanoGPT and picodo on the same device.

    python benchmarks/accelerator.py --peers <folder> [--sizes 124M 350M 1.3B] [--levers] [--rounds 5]

GPT-2's shapes, context 1,024, bfloat16 with float32 weights. Model FLOPs of a token are 6N + 12LDT, N without position
embeddings; the peak is what a large product of matrices reaches on the same device, by turns with the step. `--levers`
measures each choice against the first by itself. Needs an accelerator; nanoGPT one of NVIDIA's.
"""

import argparse
import os
import tempfile
from pathlib import Path
from statistics import median

import numpy as np
from recording import Table, record
from train_step import CHECKOUTS, COMPUTE
from turns import OWN, Worker, by_turns, ratio

ROOT = Path(__file__).resolve().parent.parent
GPT2 = {"context": 1024, "vocabulary": 50304}
SIZES = {
    "124M": {"layers": 12, "width": 768, "heads": 12, "batch": 32},
    "350M": {"layers": 24, "width": 1024, "heads": 16, "batch": 16},
    "1.3B": {"layers": 24, "width": 2048, "heads": 16, "batch": 8},
}
BEST = COMPUTE | {"attention": "auto"}
# what is changed -> keys of compute, of a worker's task, or flags of XLA; the first is what others are compared with
LEVERS = {
    "as it is": {},
    "xla attention": {"compute": {"attention": "xla"}},
    "sums in any order": {"compute": {"deterministic": False}},
    "scanned layers": {"compute": {"scan_layers": True}},
    "recomputed blocks": {"compute": {"remat": True}},
    "recomputed and scanned": {"compute": {"remat": True, "scan_layers": True}},
    "two parts": {"compute": {"accumulate": 2}},
    "logits of 512 positions at a time": {"task": {"logits": 1}},
    "all logits at once": {"task": {"logits": 2**40}},
    "stream and head in float32": {"task": {"stream_dtype": "float32"}},
    "latency hiding": {"flags": "--xla_gpu_enable_latency_hiding_scheduler=true"},
    "no command buffers": {"flags": "--xla_gpu_enable_command_buffer="},
}
PEERS = {"124M": ("nanogpt", "picodo")}
STEPS = 10


def flop_of_token(shape: dict, parameters: int) -> int:
    """Returns model FLOPs by 6N + 12LDT."""
    positions = shape["context"] * shape["width"]
    return 6 * (parameters - positions) + 12 * shape["layers"] * shape["width"] * shape["context"]


def main() -> None:
    """Measures and records."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peers", type=Path, required=True, help="folder with the checkouts")
    parser.add_argument("--python", type=Path, default=ROOT / ".venv-bench/bin/python", help="that the peers run on")
    parser.add_argument("--own-python", type=Path, default=ROOT / ".venv/bin/python", help="that makelm runs on")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--levers", action="store_true", help="each choice of compute by itself")
    parser.add_argument("--batch", type=int, help="sequences a step, in place of the size's own")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    table, results = Table("size", "who", "tokens/s", "MFU", "makelm is times as fast"), []
    with tempfile.TemporaryDirectory() as folder:
        tokens = Path(folder) / "tokens.bin"
        np.random.default_rng(0).integers(0, 50257, 4_000_000).astype(np.uint16).tofile(tokens)
        for name in options.sizes:
            shape = SIZES[name] | GPT2 | ({"batch": options.batch} if options.batch else {})
            task = shape | {"tokens": str(tokens), "dtype": "bfloat16", "device": "cuda", "compile": True}
            for who, worker in contenders(name, task, options):
                found = beside(worker, task, options)
                results.append({"size": name, "who": who, "batch": shape["batch"]} | found)
                table.add([name, who, f"{found['rate']:,.0f}", f"{found['mfu']:.1%}", f"{found['ratio']:.2f}"])
                print(results[-1], flush=True)
    record("levers" if options.levers else "accelerator", results, table)


def contenders(size: str, task: dict, options: argparse.Namespace):
    """Yields what is measured beside makelm's best: the levers, or the peers that are there."""
    if options.levers:
        for name, lever in LEVERS.items():
            yield name, own_worker(task, options, lever)
        return
    yield "makelm", own_worker(task, options)
    for peer in PEERS.get(size, ()):
        checkout = options.peers / CHECKOUTS[peer]
        if not checkout.is_dir():
            print(f"{peer}: {checkout} is not there; left out")
            continue
        yield peer, Worker(f"{peer}_steps", options.python, task | {"checkout": str(checkout)})


def own_worker(task: dict, options: argparse.Namespace, lever: dict | None = None) -> Worker:
    """Returns makelm, with what a lever changes."""
    lever = lever or {}
    own = {"architecture": "nanogpt", "compute": BEST | lever.get("compute", {})} | lever.get("task", {})
    flags = f"{os.environ.get('XLA_FLAGS', '')} {lever.get('flags', '')}".strip()
    return Worker("makelm_steps", options.own_python, task | own, OWN | {"XLA_FLAGS": flags})


def beside(worker: Worker, task: dict, options: argparse.Namespace) -> dict:
    """Returns a contender's rate, its share of the peak, and how many times as fast makelm's step is; ends it."""
    workers = {
        "it": worker,
        "makelm": own_worker(task, options),
        "peak": Worker("matmul_peak", options.own_python, {"dtype": "bfloat16"}, OWN),
    }
    seconds = by_turns(workers, STEPS, options.rounds)
    rate = STEPS * task["batch"] * task["context"] / median(seconds["it"])
    peak = STEPS * workers["peak"].facts["flop"] / median(seconds["peak"])
    found = {
        "rate": rate,
        "peak_flop_per_second": peak,
        "mfu": rate * flop_of_token(task, worker.facts["parameters"]) / peak,
        "ratio": ratio(seconds["it"], seconds["makelm"]),
        "device": workers["peak"].facts["device"],
        "versions": worker.facts["versions"],
    }
    for each in workers.values():
        each.stop()
    return found


if __name__ == "__main__":
    main()
