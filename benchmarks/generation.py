"""How fast a small model writes: 65 characters, 4 layers, 128 wide, 256 tokens, in one slot and in 32.

    python benchmarks/generation.py [--context 256]

The second of two rounds counts, whose functions are compiled; the best of three.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

import jax
import yaml

from makelm import config, configfile, model
from makelm.generate import Engine, Options, generate

ROOT = Path(__file__).resolve().parent.parent
NEW = 256
DRAWN = {"as the model says": {}, "top_k 40, top_p 0.95": {"top_k": 40, "top_p": 0.95}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--context", type=int, default=256, help="tokens (default: 256)")
    context = parser.parse_args().context
    shape = yaml.safe_load((ROOT / "config.yaml").read_text())["run"]["stdlib"]["model"]
    sizes = {"context_length": context, "n_heads": 4, "n_kv_heads": 4, "d_head": 32, "init": "gpt2"}
    shape = configfile.parse(config.Model, configfile.merge(shape, sizes), "benchmark")
    parameters = jax.jit(lambda: model.initialize(shape, 65, 0))()
    for slots in (1, 32):
        for name, how in DRAWN.items():
            engine = Engine(model.Skeleton(shape, 65), parameters, [b"a"] * 65, None, slots)
            options = [Options(max_new_tokens=NEW, temperature=0.8, seed=seed, **how) for seed in range(slots)]
            seconds = []
            for _ in range(4):
                started = time.monotonic()
                generate(engine, [[1]] * slots, options)
                seconds.append(time.monotonic() - started)
            rate = slots * NEW / min(seconds[1:])
            print(
                f"{slots} slots, {name}: {rate:,.0f} tokens/s, {engine.speed.compiling:.1f} s of compiling", flush=True
            )


if __name__ == "__main__":
    main()
