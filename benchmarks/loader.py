"""How fast windows come out of token shards, for orders, contexts and mixtures; and how long opening shards takes.

    python benchmarks/loader.py

Writes 1,000 shards of a million random tokens (2 GB) to a temporary folder (TMPDIR), opens them, and reads batches as
train_model does, with two cores. Of five measurements of half a second each prints the median of tokens per second,
as a table.
"""

import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

import numpy as np

from makelm import shards
from makelm.batches import Batches

SHARDS, TOKENS, VOCABULARY = 1000, 1_000_000, 50_257
TIMES, SECONDS = 5, 0.5
# context, batch
SHAPES = [(64, 12), (256, 8), (1024, 12), (1024, 64)]


def write(folder: Path) -> None:
    """Writes the shards, as part of one number of documents of about 500 tokens."""
    rng = np.random.default_rng(0)
    for number in range(SHARDS):
        ids = rng.integers(0, VOCABULARY - 1, TOKENS, np.uint16)
        ids[rng.integers(0, TOKENS, TOKENS // 500)] = VOCABULARY - 1
        ids[-1] = VOCABULARY - 1
        with shards.Writer(folder / f"{number:05d}.bin", VOCABULARY) as writer:
            writer.write(ids)


def speed(batches: Batches) -> float:
    """Returns the tokens per second that are laid into batches."""
    step, started = 0, time.perf_counter()
    while (passed := time.perf_counter() - started) < SECONDS:
        batches(step)
        step += 1
    return step * batches.batch_size * batches.length / passed


def main() -> None:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    with tempfile.TemporaryDirectory(prefix="makelm-loader-") as folder:
        write(Path(folder))
        started = time.perf_counter()
        tokens = [shards.open_shard(path) for path in sorted(Path(folder).iterdir())]
        print(f"{len(tokens)} shards opened in {time.perf_counter() - started:.2f} s\n")
        half = len(tokens) // 2
        cases = {"one source": ({"a": tokens}, {"a": 1.0})}
        cases["two, 0.7 and 0.3"] = ({"a": tokens[:half], "b": tokens[half:]}, {"a": 0.7, "b": 0.3})
        print("| order | sources | context | batch | million tokens/s |\n|---|---|---|---|---|")
        for order in ("shuffled", "random", "packed"):
            for name, (sources, weights) in cases.items():
                for context, batch in SHAPES:
                    batches = Batches(sources, weights, VOCABULARY, VOCABULARY - 1, context, batch, order, 0)
                    found = median(speed(batches) for _ in range(TIMES))
                    print(f"| {order} | {name} | {context:,} | {batch} | {found / 1e6:.1f} |", flush=True)


if __name__ == "__main__":
    main()
