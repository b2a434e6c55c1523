"""Flash attention computes what attention does; on a CPU, TPUs' kernel is interpreted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import COMPUTE, random_parameters, shape

from makelm import attention, config, flash, sharding
from makelm.model import Skeleton
from makelm.step import batch_gradients

V, END = 32, 3


def drawn(length: int) -> tuple[jax.Array, ...]:
    """Returns queries, keys, values and a gradient of two rows."""
    return tuple(jax.random.normal(jax.random.key(i), (2, length, heads, 8)) for i, heads in enumerate((4, 2, 2, 4)))


def documents(length: int) -> jax.Array:
    """Returns three documents in the first row and two in the second."""
    return jnp.asarray(np.stack([np.arange(length) * count // length for count in (3, 2)]), jnp.int32)


@pytest.mark.parametrize("given", [None, documents(6)], ids=["whole", "documents"])
def test_cudnn_is_asked_for_the_same_attention(monkeypatch, given):
    q, k, v, _ = drawn(6)
    by_jax = jax.nn.dot_product_attention

    def elsewhere(*of, implementation, **options):
        assert implementation == "cudnn"
        return by_jax(*of, implementation="xla", **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", elsewhere)
    with jax.numpy_rank_promotion("allow"):
        found = flash.cudnn(q, k, v, given)
    np.testing.assert_allclose(found, attention.by_products(q, k, v, given, None), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("length", [384, 640])  # all at once, and in five parts
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "documents"])
def test_splash_attention_and_its_gradients_are_those_of_attention(length, masked):
    *given, g = drawn(length)
    documents_BT = documents(length) if masked else None

    def splash(*given):
        return flash.splash(*given, documents_BT, interpret=True)

    found, pull = jax.vjp(jax.jit(splash), *given)
    wanted, pull_wanted = jax.vjp(lambda *of: attention.by_products(*of, documents_BT, None), *given)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    for gradient, want in zip(pull(g), pull_wanted(g), strict=True):
        np.testing.assert_allclose(gradient, want, rtol=1e-4, atol=1e-5)


def test_splash_attention_on_a_mesh_gives_the_models_gradients():
    model = shape(context_length=128, mask_documents=True)
    mesh = sharding.make_mesh(config.Mesh(data=2, fsdp=2, tensor=2), jax.devices())
    parameters = random_parameters(model, V)
    windows_BT = jax.random.randint(jax.random.key(0), (4, 129), 0, V)
    assert (windows_BT == END).sum() > 8
    parameters, windows_BT = (
        jax.tree.map_with_path(
            lambda path, leaf: jax.device_put(leaf, sharding.parameter_sharding(mesh, path[-1].key, leaf.shape)),
            parameters,
        ),
        jax.device_put(windows_BT, jax.NamedSharding(mesh, sharding.BATCH)),
    )

    def gradients(kernel: str):
        compute = config.Compute(**COMPUTE | {"attention": kernel, "scan_layers": True, "remat": True})
        skeleton = Skeleton(model, V, END, mesh)
        return jax.jit(lambda p, w: batch_gradients(skeleton, p, w, compute, 0.0, jax.random.key(0)))(
            parameters, windows_BT
        )

    found, wanted = gradients("splash"), gradients("xla")
    assert jnp.allclose(found[1], wanted[1], rtol=1e-5)
    for name, want in wanted[0].items():
        np.testing.assert_allclose(found[0][name], want, rtol=1e-3, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "documents"])
def test_no_program_carries_a_mask(masked):
    def size(length):
        given = [jax.ShapeDtypeStruct((2, length, heads, 8), jnp.float32) for heads in (4, 2, 2)]
        numbers = jax.ShapeDtypeStruct((2, length), jnp.int32) if masked else None
        return len(jax.jit(lambda *of: attention.by_products(*of, None)).lower(*given, numbers).as_text())

    assert size(1024) < 1.1 * size(512)
