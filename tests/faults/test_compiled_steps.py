"""What XLA makes of a step's gradients is what its operations give one after the other, on any mesh: models by chance.

XLA has been wrong (see attention.by_products), and only with some shapes, meshes and ways to compute.
`make test-faults` runs these.
"""

import os
import random
from math import prod

import jax
import numpy as np
import pytest
from conftest import compute, random_parameters, shape

from makelm import config, meshes, sharding
from makelm.model import Skeleton
from makelm.step import batch_gradients

if "MAKELM_FAULTS" not in os.environ:
    pytest.skip("takes a while: make test-faults", allow_module_level=True)

V, END = 32, 3
MESHES = [(1, 1, 1), (1, 2, 1), (2, 1, 2), (1, 4, 2), (2, 2, 2), (1, 8, 1)]


def drawn(chance: random.Random, tensor: int) -> config.Model:
    """Returns a model whose heads so many devices can share."""
    key_heads = tensor * chance.choice([1, 1, 2])
    activation = chance.choice(["swiglu", "gelu", "gelu_tanh", "relu_squared", "swiglu_layer"])
    kind = chance.choice(["rmsnorm", "layernorm"])
    rope = {"kind": "rope", "pairs": chance.choice(["halves", "interleaved"])}
    return shape(
        context_length=chance.choice([48, 64, 128]),
        n_layers=1,
        n_heads=key_heads * chance.choice([1, 2, 2, 4]),
        n_kv_heads=key_heads,
        d_head=chance.choice([8, 16]),
        qk_norm=chance.choice([None, None, "rmsnorm"]),
        norm={"kind": kind, "scale": chance.random() < 0.7},
        positions=chance.choice([rope, {"kind": "learned"}]),
        activation=activation,
        residual=chance.choice(["serial", "parallel"]),
        biases={"attention": chance.random() < 0.3, "head": chance.random() < 0.3},
        tie_embeddings=chance.random() < 0.4,
        mask_documents=chance.random() < 0.3,
    )


@pytest.mark.parametrize("axes", MESHES, ids=lambda axes: "x".join(map(str, axes)))
@pytest.mark.parametrize("seed", range(3))
def test_compiled_gradients_are_those_of_one_operation_after_the_other(axes, seed):
    chance = random.Random(f"{axes} {seed}")
    model = drawn(chance, axes[2])
    how = compute(scan_layers=chance.random() < 0.25, remat=chance.random() < 0.25)
    mesh = sharding.make_mesh(config.Mesh(**dict(zip(meshes.AXES, axes, strict=True))), jax.devices()[: prod(axes)])
    rows = axes[0] * axes[1] * chance.choice([1, 1, 1, 2])
    windows_BT = np.random.default_rng(seed).integers(0, V, (rows, model.context_length + 1))
    parameters = random_parameters(model, V)

    def gradients(mesh):
        skeleton = Skeleton(model, V, END, mesh)
        return lambda p: batch_gradients(skeleton, p, windows_BT, how, 1e-4, jax.random.key(0))[:2]

    found, loss = jax.jit(gradients(mesh))(parameters)
    with jax.disable_jit():
        wanted, expected = gradients(None)(parameters)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    largest = max(np.abs(gradient).max() for gradient in wanted.values())
    for name, gradient in found.items():
        np.testing.assert_allclose(gradient, wanted[name], rtol=1e-3, atol=1e-4 * largest, err_msg=f"{name} of {model}")
