"""What XLA makes of a training step for a GPU that is not here: what its kernels compute, move and hold.

    python benchmarks/gpu_program.py [--topology h200:1] [--sizes 124M 350M 1.3B] [--tflops 790] [--gb-per-second 4300]

Needs JAX's CUDA packages (pip install 'jax[cuda13]') and no GPU. Counted, not measured: the least that the kernels can
take, each the longer of its products at one rate and of its bytes at another, none of them waiting. The rates are those
of a large product and of a copy on an H200; cuDNN's attention is counted at half of the first.
"""

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from makelm import gpus  # noqa: E402

gpus.without_a_driver()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import own_step  # noqa: E402
from accelerator import BEST, GPT2, LEVERS, SIZES, flop_of_token  # noqa: E402
from recording import Table, record  # noqa: E402

from makelm import compiled, loss, sharding, training  # noqa: E402

NO_KERNEL = {"parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all", "optimization-barrier"}
COUNTED = ("as it is", "xla attention", "scanned layers", "recomputed blocks", "stream and head in float32")
ATTENTION = 0.5  # of a product's rate


@dataclass(frozen=True)
class Kernel:
    """A kernel of a program: its floating-point operations in products, bytes read and written, and times it runs."""

    name: str
    flop: int
    bytes: int
    times: int
    flash: bool

    def seconds(self, rate: float, bandwidth: float) -> float:
        return self.times * max(self.flop / (rate * (ATTENTION if self.flash else 1)), self.bytes / bandwidth)


class Program:
    """A compiled program for GPUs, read from XLA's text of it."""

    def __init__(self, text: str):
        self.computations, self.entry = compiled.computations(text)

    def kernels(self, name: str | None = None, times: int = 1) -> Iterator[Kernel]:
        """Yields the kernels of a computation, and of the loops in it as often as they go round."""
        instructions = self.computations[name or self.entry]
        types = {each.name: each.type for each in instructions}
        for each in instructions:
            inner = [found for found in compiled.called(each.rest) if found in self.computations]
            if each.op == "while":
                condition, body = compiled.WHILE.search(each.rest).groups()
                rounds = compiled.trips(each, self.computations[condition]) or 1
                yield from self.kernels(body, times * rounds)
            elif each.op in ("call", "conditional"):
                for found in inner:
                    yield from self.kernels(found, times)
            elif each.op not in NO_KERNEL:
                operands = [types[operand] for operand in operands_of(each) if operand in types]
                moved = self.moved(inner[0], operands, each.type) if each.op == "fusion" else None
                flash = "__cudnn$fmha" in each.rest
                flop = flash_flop(each, operands) if flash else sum(self.product_flop(found) for found in inner)
                yield Kernel(each.op, flop, moved or sum(map(compiled.size, [each.type, *operands])), times, flash)

    def moved(self, name: str, operands: list[str], result: str) -> int:
        """Returns what a fusion reads and writes; of an array of which it takes or replaces a slice, the slice."""
        instructions = {each.name: each for each in self.computations[name]}
        users = Counter(operand for each in instructions.values() for operand in operands_of(each))
        read = {each.name: compiled.size(each.type) for each in instructions.values() if each.op == "parameter"}
        written, taken = compiled.size(result), Counter()
        for each in instructions.values():
            first, *others = operands_of(each) or [""]
            if each.op == "dynamic-slice" and first in read:
                taken[first] += compiled.size(each.type)
                users[first] -= 1
            elif each.op == "dynamic-update-slice" and first in read:
                part = compiled.size(instructions[others[0]].type)
                written, users[first] = written - compiled.size(each.type) + part, users[first] - 1
        return written + sum(size if users[name] > 0 else taken[name] for name, size in read.items())

    def product_flop(self, name: str) -> int:
        """Returns the floating-point operations of the products of matrices in a computation."""
        instructions = self.computations[name]
        types, flop = {each.name: each.type for each in instructions}, 0
        for each in instructions:
            if each.op == "dot":
                left = dims(types[operands_of(each)[0]])
                summed = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", each.rest)[1]
                flop += 2 * prod(dims(each.type)) * prod(left[int(dim)] for dim in summed.split(",") if dim)
            flop += sum(self.product_flop(found) for found in compiled.called(each.rest) if found in self.computations)
        return flop


def operands_of(instruction: compiled.Instruction) -> list[str]:
    """Returns the names of what an instruction reads."""
    return re.findall(r"%([\w.-]+)", instruction.rest.partition(")")[0])


def dims(type_text: str) -> list[int]:
    """Returns the dims of the first array of a type."""
    return [int(dim) for dim in re.search(r"\[([\d,]*)\]", type_text)[1].split(",") if dim]


def flash_flop(instruction: compiled.Instruction, operands: list[str]) -> int:
    """Returns the operations of causal flash attention: half of two products of the scores' size, of five backward."""
    rows, positions, heads, width = dims(operands[0])
    return (5 if "Backward" in instruction.rest else 2) * rows * heads * positions * positions * width


def compile_step(given: dict, topology: str) -> jax.stages.Compiled:
    """Returns the compiled step of a shape on GPUs of a topology."""
    run = own_step.settings(given)
    mesh = sharding.make_mesh(run.mesh, gpus.devices(topology))
    trainer = training.make_trainer(run.model, run.train, run.compute, given["vocabulary"], None, mesh)
    rows = jax.sharding.NamedSharding(mesh, sharding.BATCH)
    windows_BT = jax.ShapeDtypeStruct((given["batch"], given["context"] + 1), jnp.int32, sharding=rows)
    return trainer.step.lower(trainer.state_shapes, windows_BT, 0).compile()


def count(size: str, lever: dict, options: argparse.Namespace) -> dict:
    """Returns what is counted of a step."""
    task = {"architecture": "nanogpt", "dtype": "bfloat16", "compute": BEST | lever.get("compute", {})}
    given = SIZES[size] | GPT2 | task | lever.get("task", {})
    loss.LOGITS_ELSEWHERE = given.get("logits", loss.LOGITS_ELSEWHERE)
    step = compile_step(given, options.topology)
    kernels, rates = list(Program(step.as_text()).kernels()), (options.tflops * 1e12, options.gb_per_second * 1e9)
    memory, parameters = step.memory_analysis(), parameters_of(given)
    least = sum(kernel.seconds(*rates) for kernel in kernels)
    tokens = given["batch"] * given["context"]
    return {
        "kernels": sum(kernel.times for kernel in kernels),
        "flop": sum(kernel.times * kernel.flop for kernel in kernels),
        "bytes": sum(kernel.times * kernel.bytes for kernel in kernels),
        "state_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "least_seconds": least,
        "products_seconds": sum(replace(kernel, bytes=0).seconds(*rates) for kernel in kernels),
        "most_mfu": tokens * flop_of_token(given, parameters) / least / rates[0],
    }


def parameters_of(given: dict) -> int:
    """Returns the number of weights of a shape."""
    D, L = given["width"], given["layers"]
    return (given["vocabulary"] + given["context"]) * D + L * (12 * D * D + 2 * D) + D


def main() -> None:
    """Counts and records."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--topology", default="h200:1", help="as hardware.topology (default: %(default)s)")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--levers", nargs="+", choices=LEVERS, default=COUNTED, help="what is changed")
    parser.add_argument("--tflops", type=float, default=790, help="of a large product (default: %(default)s)")
    parser.add_argument("--gb-per-second", type=float, default=4300, help="of a copy (default: %(default)s)")
    options = parser.parse_args()
    jax.devices("cpu")
    titles = ("kernels", "TFLOP", "GB moved", "GB of state", "temporary GB", "least ms", "of them products", "most MFU")
    table, results = Table("size", "what", *titles), []
    for size in options.sizes:
        for name in options.levers:
            found = count(size, LEVERS[name], options)
            results.append({"size": size, "what": name} | found)
            giga = [f"{found[key] / 1e9:.1f}" for key in ("bytes", "state_bytes", "temporary_bytes")]
            times = [f"{found[key] * 1e3:.1f}" for key in ("least_seconds", "products_seconds")]
            numbers = [
                f"{found['kernels']:,}",
                f"{found['flop'] / 1e12:.1f}",
                *giga,
                *times,
                f"{found['most_mfu']:.0%}",
            ]
            table.add([size, name, *numbers])
            print(table.lines[-1], flush=True)
    record("gpu_program", results, table)


if __name__ == "__main__":
    main()
