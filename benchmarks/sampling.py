"""How fast a model writes, beside nanoGPT's sample.py, which has no cache, and transformers' generate, which has one.

    python benchmarks/sampling.py --peers <folder with nanoGPT> [--rounds 5]

GPT-2's architecture without biases (transformers': with), random weights, float32, temperature 0.8, top_k 40, in one
row and in 32: 256 new tokens after one, and one after 256. The three take turns, each in a process of its own;
compiling is over. nanoGPT reads all of a text again for each of its tokens, and would take up to 40 seconds for 32 of
256: there it writes every 16th of the new tokens, each after as many as stand before it, and its time counts 16 times.
"""

import argparse
from itertools import product
from pathlib import Path
from statistics import median

from recording import Table, record
from train_step import COMPUTE
from turns import OWN, Worker, by_turns, python_of_peers, ratio

ROOT = Path(__file__).resolve().parent.parent
SHAPES = {
    "4 layers, 128 wide": {"layers": 4, "width": 128, "heads": 4, "vocabulary": 65},
}
KINDS = {"writes": {"prompt": 1, "new": 256}, "reads": {"prompt": 256, "new": 1}}
EVERY = 16  # of the new tokens of many texts nanoGPT writes one in so many
COMMON = {"context": 512, "top_k": 40, "batch": 1, "dtype": "float32"}
OWN_KEYS = {"architecture": "nanogpt", "compute": COMPUTE}


def main() -> None:
    """Measures and records."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peers", type=Path, required=True, help="folder with nanoGPT's checkout")
    parser.add_argument("--python", type=Path, default=ROOT / ".venv-bench/bin/python", help="that the peers run on")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    python = python_of_peers(options.python)
    titles = ("nanoGPT", "transformers", "makelm, tokens/s", "times nanoGPT", "times transformers")
    table, results = Table("model", "", "rows", *titles), []
    for (name, shape), (kind, lengths), rows in product(SHAPES.items(), KINDS.items(), (1, 32)):
        task, every = shape | COMMON | lengths | {"rows": rows}, EVERY if kind == "writes" and rows > 1 else 1
        workers = {
            "nanogpt": Worker(
                "nanogpt_writing", python, task | {"checkout": str(options.peers / "nanoGPT"), "every": every}
            ),
            "transformers": Worker("transformers_writing", python, task),
            "makelm": Worker("makelm_writing", ROOT / ".venv/bin/python", task | OWN_KEYS, OWN),
        }
        seconds = by_turns(workers, 1, options.rounds)
        seconds["nanogpt"] = [every * each for each in seconds["nanogpt"]]
        rates = {who: rows * max(lengths.values()) / median(found) for who, found in seconds.items()}
        ratios = {who: ratio(seconds[who], seconds["makelm"]) for who in ("nanogpt", "transformers")}
        for worker in workers.values():
            worker.stop()
        results.append({"model": name, "kind": kind, "rows": rows, "tokens_per_second": rates, "ratios": ratios})
        cells = [f"{rates[who]:,.0f}" for who in workers]
        table.add([name, kind, rows, *cells, *(f"**{each:.1f}**" for each in ratios.values())])
        print(results[-1], flush=True)
    record("sampling", results, table)


if __name__ == "__main__":
    main()
