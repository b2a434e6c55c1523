"""Meshes: they all train the same model, and no device holds or sends more than its share.

`make test-faults` runs these.
"""

import os
import re
from collections import defaultdict
from functools import cache
from math import prod
from typing import NamedTuple

import jax
import numpy as np
import pytest
from conftest import make_trainer, shape, train
from layouts import GPT2

from makelm import config, meshes, parameter_table, sharding
from makelm.batches import Batches

if "MAKELM_FAULTS" not in os.environ:
    pytest.skip("takes a while: make test-faults", allow_module_level=True)

V, STEPS, ROWS = 208, 50, 16
MESHES = [(1, 8, 1), (8, 1, 1), (2, 2, 2), (4, 1, 2)]
# sizes tell what an array is: no weight has as many elements as a part of another, or Muon's square of one
SMALL = {"context_length": 32, "d_model": 32, "n_heads": 6, "n_kv_heads": 2, "d_head": 12, "d_ff": 80}
# low: training itself makes more of each rounding
RATES = {"learning_rates": dict.fromkeys(("matrices", "embedding", "head", "vectors"), 0.003)}
# name -> model, training, compute, in words
MODELS = {
    "muon": (
        SMALL | {"activation": "relu_squared", "mask_documents": True},
        {"optimizer": RATES},
        {"scan_layers": True},
        "RMSNorm, RoPE, grouped heads, masked documents; Muon, scanned",
    ),
    "adamw": (
        GPT2 | SMALL | {"n_kv_heads": 6, "biases": {"head": True}, "init": "gpt2", "dropout": 0.1},
        {"optimizer": {"kind": "adamw", "clip_norm": 1.0, "weight_decay": 0.1} | RATES, "ema": 0.9},
        {"accumulate": 2, "remat": True, "scan_layers": True},
        "as GPT-2, dropout; AdamW, clipped, averaged, scanned, recomputed, in two parts",
    ),
    "parts": (SMALL | {"n_layers": 1}, {"optimizer": {"kind": "lion"}}, {"accumulate": 2}, ""),
}
TRAINED = ("muon", "adamw")


@cache
def compiled(name: str, axes: tuple[int, int, int]):
    """Returns the trainer of a model on a mesh of the first devices, and its compiled step."""
    model, settings, how, _ = MODELS[name]
    mesh = sharding.make_mesh(config.Mesh(**dict(zip(meshes.AXES, axes, strict=True))), jax.devices()[: prod(axes)])
    trainer = make_trainer(shape(**model), train(steps=STEPS, batch_size=ROWS, **settings), V, mesh, **how)
    rows = jax.ShapeDtypeStruct((ROWS, 33), np.int32, sharding=jax.sharding.NamedSharding(mesh, sharding.BATCH))
    return trainer, trainer.step.lower(trainer.state_shapes, rows, 0).compile()


@cache
def trained(name: str, axes: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Returns the losses of each step, the rows that the devices were fed, and the parameters at the end."""
    trainer, step = compiled(name, axes)
    tokens = np.random.default_rng(0).zipf(1.5, 40 * 32 + 1) % V  # 40 windows: some epochs
    batches = Batches({"mine": [tokens]}, {"mine": 1.0}, V, V - 1, 32, ROWS, "shuffled", 0)
    state, losses, fed = trainer.initial_state(), [], []
    for number in range(STEPS):
        windows = trainer.place(batches(number))
        state, metrics = step(state, windows, number)
        losses.append(float(metrics["loss"]))
        own = {shard.index[0].start or 0: np.asarray(shard.data) for shard in windows.addressable_shards}
        fed.append(np.concatenate([own[first] for first in sorted(own)]))
    return np.array(losses), np.array(fed), jax.device_get(state["parameters"])


@pytest.mark.parametrize("axes", MESHES)
@pytest.mark.parametrize("name", TRAINED)
def test_a_mesh_feeds_the_same_tokens_and_gives_the_same_losses(name, axes, tell):
    (losses, fed, parameters), (expected, tokens, wanted) = trained(name, axes), trained(name, (1, 1, 1))
    assert np.array_equal(fed, tokens)
    tell("meshes", MODELS[name][3], " x ".join(map(str, axes)), f"{np.max(np.abs(losses / expected - 1)):.1e}")
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    assert losses[-1] < losses[0] - 0.5
    for leaf, value in wanted.items():
        distance = np.linalg.norm(parameters[leaf] - value)
        assert distance <= 1e-2 * np.linalg.norm(value) + 1e-5, leaf  # of a gradient near zero Adam makes a whole step


# ---- what XLA made of the step


class Instruction(NamedTuple):
    """A line of optimized HLO."""

    name: str
    kind: str
    sizes: list[int]  # elements of each result
    operands: list[str]
    inside: bool  # of a loop, or of what else is called
    text: str


class Program:
    """A compiled step, to be asked who uses what."""

    def __init__(self, text: str):
        self.instructions, self.users, self.arguments = {}, defaultdict(list), {}
        for line in text.splitlines():
            if opened := re.match(r"(ENTRY )?%([\w.-]+) \(.*\{$", line):
                inside, computation = not opened[1], opened[2]
            found = re.match(r"\s+(?:ROOT )?%([\w.-]+) = (.+?) ([\w-]+)\((.*)", line)
            if not found:
                continue
            name, result, kind, rest = found.groups()
            sizes = [prod(map(int, filter(None, dims.split(",")))) for dims in re.findall(r"\w\[([\d,]*)\]", result)]
            one = Instruction(name, kind, sizes, re.findall(r"%([\w.-]+)", rest.split("), ")[0]), inside, line)
            self.instructions[name] = one
            for operand in one.operands:
                self.users[operand].append(one)
            if kind == "parameter":
                self.arguments[computation, int(rest.split(")")[0])] = name

    def all(self, kind: str) -> list[Instruction]:
        """Returns the instructions of a kind."""
        return [one for one in self.instructions.values() if one.kind == kind]

    def only_sliced(self, name: str, place: int | None = None) -> bool:
        """Says that nothing but slices is made of a result, or of the one at a place of a tuple."""
        return all(self.slices(user, name, place) for user in self.users[name])

    def slices(self, user: Instruction, name: str, place: int | None) -> bool:
        if user.kind == "get-tuple-element":
            return f"index={place}" not in re.split(r"[, ]+", user.text) or self.only_sliced(user.name)
        if user.kind in ("bitcast", "copy", "reshape", "transpose", "convert"):
            return self.only_sliced(user.name)
        if called := re.search(r"(?:calls|to_apply)=%([\w.-]+)", user.text):
            return all(
                self.only_sliced(self.arguments[called[1], number])
                for number, operand in enumerate(user.operands)
                if operand == name
            )
        return user.kind == "dynamic-slice"


def whole_sizes(trainer) -> set[int]:
    """Returns how many elements the weights have that lie along fsdp, as a device computes with them."""
    weights = [leaf for leaf in trainer.state_shapes["parameters"].values() if "fsdp" in leaf.sharding.spec]
    fsdp = weights[0].sharding.mesh.shape["fsdp"]
    parts = {prod(leaf.sharding.shard_shape(leaf.shape)) for leaf in weights}
    wholes = {fsdp * part for part in parts}
    assert not wholes & parts
    return wholes


SHARDED = pytest.mark.parametrize("axes", [(1, 8, 1), (2, 2, 2)])


@SHARDED
@pytest.mark.parametrize("name", TRAINED)
def test_what_leaves_the_step_lies_as_the_table_says(name, axes):
    trainer, step = compiled(name, axes)
    names, seen = trainer.state_shapes["parameters"], 0
    leaves = jax.tree_util.tree_leaves_with_path(trainer.state_shapes)
    for (path, leaf), place in zip(leaves, jax.tree.leaves(step.output_shardings[0]), strict=True):
        parameter = next((key.key for key in path[::-1] if getattr(key, "key", None) in names), None)
        if parameter and leaf.shape == names[parameter].shape:
            spec = jax.sharding.PartitionSpec(*parameter_table.of(parameter).axes)
            assert place.is_equivalent_to(jax.sharding.NamedSharding(place.mesh, spec), leaf.ndim), path
            seen += 1
    assert seen >= 2 * len(names)


@SHARDED
@pytest.mark.parametrize("name", TRAINED)
def test_the_sum_of_a_gradient_is_only_sliced(name, axes):
    """XLA on a CPU has no reduce-scatter: what it makes of one is a sum, and of the sum a slice."""
    trainer, step = compiled(name, axes)
    program, sizes, seen = Program(step.as_text()), whole_sizes(trainer), 0
    for one in program.all("all-reduce"):
        for place, size in enumerate(one.sizes):
            if size in sizes and "transpose" in one.text:
                assert program.only_sliced(one.name, place), one.text
                seen += 1
    assert seen >= 6


@SHARDED
@pytest.mark.parametrize("name", TRAINED)
def test_weights_are_gathered_one_at_a_time_and_activations_never(name, axes):
    trainer, step = compiled(name, axes)
    sizes, gathers = whole_sizes(trainer), Program(step.as_text()).all("all-gather")
    tokens = ROWS * 32
    assert {size for one in gathers for size in one.sizes if size > tokens} <= sizes
    assert all("jvp" in one.text for one in gathers), "weights are not gathered to be changed"
    assert sum("transpose(jvp" in one.text for one in gathers) >= 6, "and are not kept for the backward pass"


def test_weights_are_gathered_again_for_each_part_of_a_batch():
    trainer, step = compiled("parts", (1, 8, 1))
    sizes, gathers = whole_sizes(trainer), Program(step.as_text()).all("all-gather")
    assert {one.inside for one in gathers if max(one.sizes) in sizes} == {True}


@pytest.mark.skipif(
    jax.devices()[0].platform != "gpu" or len(jax.devices()) < 2, reason="XLA has reduce-scatter on several GPUs"
)
def test_gradients_are_reduce_scattered_on_gpus():
    assert "reduce-scatter" in compiled("muon", (1, len(jax.devices()), 1))[1].as_text()


def test_statistics_are_the_same_on_any_mesh():
    found, model = [], shape(init="gpt2", n_layers=1)
    windows_BT = np.random.default_rng(0).integers(0, V, (8, 17)).astype(np.int32)
    for axes, parts in (((1, 1, 1), 1), ((1, 2, 2), 2)):
        mesh = sharding.make_mesh(config.Mesh(**dict(zip(meshes.AXES, axes, strict=True))), jax.devices()[: prod(axes)])
        trainer = make_trainer(model, train(optimizer={"kind": "adamw"}), V, mesh, accumulate=parts)
        found.append(jax.device_get(trainer.statistics(trainer.initial_state(), trainer.place(windows_BT), 0)))
    assert found[0].keys() == found[1].keys()
    for name in found[0]:
        if not name.startswith("largest"):  # of other rows
            np.testing.assert_allclose(found[1][name], found[0][name], rtol=1e-4, atol=1e-7, err_msg=name)
