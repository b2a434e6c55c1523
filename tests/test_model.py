"""The Transformer: every choice, causality, documents apart."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import compute, forward, random_parameters, shape
from flax import nnx
from layouts import GPT2, GPTJ, SQUARE

from makelm import attention, config, layers, loss, sharding
from makelm.model import Skeleton, initialize, shapes

V, END = 50, 49
tokens_BT = np.random.default_rng(0).integers(0, V - 1, (2, 12)).astype(np.int32)

PICODO = SQUARE | {"qk_norm": "rmsnorm", "norm": {"scale": False}, "activation": "gelu_tanh"}
ZOO = {
    "qwen": {},
    "llama": {"qk_norm": None, "tie_embeddings": True},
    "gpt2": GPT2,
    "nanogpt": GPT2 | {"norm": {"kind": "layernorm"}, "activation": "gelu", "biases": {}},
    "gptj": GPTJ,
    "picodo": PICODO,
    "nanojaxgpt": GPT2 | {"activation": "swiglu_layer", "biases": {}, "tie_embeddings": False},
    "others": {
        "qk_norm": "layernorm",
        "positions": {"kind": "none"},
        "activation": "relu_squared",
        "logit_soft_cap": 5.0,
        "mask_documents": True,
    },
    "bfloat16": {"compute_dtype": "bfloat16", "residual_dtype": "float32", "parameter_dtype": "bfloat16"},
    "bfloat16 head": {"compute_dtype": "bfloat16", "head_dtype": "bfloat16", "tie_embeddings": True},
}
every_model = pytest.mark.parametrize("model", [shape(**changes) for changes in ZOO.values()], ids=ZOO)


@every_model
def test_the_past_does_not_know_the_future(model):
    skeleton, parameters = Skeleton(model, V, END), random_parameters(model, V)
    tokens = tokens_BT.copy()
    tokens[0, 4] = tokens[1, 7] = END
    apply = partial(jax.jit(lambda p, tokens: skeleton(p)(tokens)), parameters)
    full_BTV = apply(tokens)
    assert full_BTV.shape == (2, 12, -(-V // model.vocab_multiple) * model.vocab_multiple)
    assert full_BTV.dtype == np.float32
    for position in (1, 5, 11):
        changed = tokens.copy()
        changed[:, position] = (changed[:, position] + 1) % (V - 1)
        after_BTV = apply(changed)
        np.testing.assert_array_equal(full_BTV[:, :position], after_BTV[:, :position])
        assert (np.abs(full_BTV[:, position] - after_BTV[:, position]).max(-1) > 1e-3).all()


@pytest.mark.parametrize("name", ["qwen", "gpt2", "gptj"])
def test_scanned_and_rematerialised_layers_are_the_same_computation(name):
    model = shape(**ZOO[name])
    skeleton, parameters = Skeleton(model, V, END), random_parameters(model, V)

    def value_and_gradients(**how):
        def mean(p):
            return loss.losses(skeleton(p), tokens_BT, compute(**how))[0] / 22

        return jax.jit(jax.value_and_grad(mean))(parameters)

    expected, wanted = value_and_gradients()
    for how in ({"scan_layers": True, "remat": True}, {"remat": True}):
        value, gradients = value_and_gradients(**how)
        np.testing.assert_allclose(value, expected, rtol=1e-6)
        for name, gradient in gradients.items():
            scale = np.abs(wanted[name]).max()
            np.testing.assert_allclose(gradient, wanted[name], rtol=1e-2, atol=1e-5 * scale, err_msg=f"{how} {name}")


def test_gradients_as_compiled_are_those_of_one_operation_after_the_other():
    """XLA can be wrong: see attention.by_products. With one row and key head a device it was."""
    model = shape(n_heads=2, n_kv_heads=1, qk_norm=None, context_length=128, n_layers=1)
    mesh = sharding.make_mesh(config.Mesh(data=1, fsdp=2, tensor=1), jax.devices()[:2])
    parameters = random_parameters(model, V)
    windows_BT = np.random.default_rng(0).integers(0, V, (2, 129))

    def differentiate(mesh):
        skeleton = Skeleton(model, V, mesh=mesh)
        return jax.value_and_grad(lambda p: loss.losses(skeleton(p), windows_BT, compute())[0])

    value, gradients = jax.jit(differentiate(mesh))(parameters)
    with jax.disable_jit():
        expected, wanted = differentiate(None)(parameters)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for name, gradient in gradients.items():
        np.testing.assert_allclose(gradient, wanted[name], rtol=1e-3, atol=1e-3, err_msg=name)


def test_documents_do_not_see_each_other():
    apart, together = shape(mask_documents=True), shape()
    parameters = random_parameters(apart, V)
    tokens = tokens_BT.copy()
    tokens[0, 5] = END
    changed = tokens.copy()
    changed[0, :5] = (changed[0, :5] + 1) % (V - 1)
    before, after = (forward(apart, V, parameters, t) for t in (tokens, changed))
    np.testing.assert_array_equal(before[0, 5:], after[0, 5:])
    assert np.abs(before[0, 4] - after[0, 4]).max() > 1e-3
    # a document alone is what it is behind another: rotary positions only count distances
    alone = forward(apart, V, parameters, tokens[:1, 5:])
    np.testing.assert_allclose(alone[0], before[0, 5:], rtol=1e-4, atol=1e-5)
    before, after = (forward(together, V, parameters, t) for t in (tokens, changed))
    assert np.abs(before[0, 6] - after[0, 6]).max() > 1e-3


@pytest.mark.parametrize("normalize", [False, True])
def test_attention_is_that_of_flax(normalize):
    model = shape(
        **GPT2 | {"qk_norm": "layernorm" if normalize else None, "positions": {"kind": "none"}, "norm": {"eps": 1e-6}}
    )
    own = Skeleton(model, V)(random_parameters(model, V)).blocks[0].attention
    theirs = nnx.MultiHeadAttention(
        num_heads=4, in_features=16, normalize_qk=normalize, use_bias=True, decode=False, rngs=nnx.Rngs(0)
    )
    for part, name in (("query", "query"), ("key", "key"), ("value", "value")):
        letters = "NH" if part == "query" else "KH"
        getattr(theirs, name).kernel[...] = getattr(own, f"{part}_D{letters}")[...]
        getattr(theirs, name).bias[...] = getattr(own, f"{part}_bias_{letters}")[...]
    theirs.out.kernel[...], theirs.out.bias[...] = own.output_NHD[...], own.output_bias_D[...]
    if normalize:
        theirs.query_ln.scale[...], theirs.key_ln.scale[...] = own.query_norm.scale[...], own.key_norm.scale[...]
    x_BTD = np.random.default_rng(0).standard_normal((2, 12, 16), np.float32)
    with jax.numpy_rank_promotion("allow"):
        expected = theirs(x_BTD, mask=nnx.make_causal_mask(tokens_BT))
    np.testing.assert_allclose(own(x_BTD, None, "xla", None), expected, rtol=1e-4, atol=1e-5)


def test_attention_with_dropout_has_the_gradients_of_the_plain_formula():
    q, k, v = (jax.random.normal(jax.random.key(i), (3, 6, 8)) for i in range(3))
    mask_ATS = np.tri(6, dtype=bool)[None]
    kept_ATS = layers.kept(jax.random.split(jax.random.key(3), 3), 0.4, (6, 6), jnp.float32)
    assert set(np.unique(kept_ATS)) == {0, np.float32(1) / np.float32(0.6)}

    def plain(q, k, v):
        scores = jnp.where(mask_ATS, jnp.einsum("ATH,ASH->ATS", q, k), -jnp.inf)
        return jnp.einsum("ATS,ASH->ATH", jax.nn.softmax(scores) * kept_ATS, v)

    value, pull = jax.vjp(lambda *a: attention.attend(*a, mask_ATS, kept_ATS), q, k, v)
    expected, wanted = jax.vjp(plain, q, k, v)
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-6)
    g = jax.random.normal(jax.random.key(4), value.shape)
    for gradient, want in zip(pull(g), wanted(g), strict=True):
        np.testing.assert_allclose(gradient, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("length", [255, 300, 512])
def test_attention_in_pieces_is_that_of_all_queries_at_once(length):
    q, k, v, g = (jax.random.normal(jax.random.key(i), (2, length, 4)) for i in range(4))
    mask_ATS = np.tri(length, dtype=bool)[None]
    kept_ATS = layers.kept(jax.random.split(jax.random.key(4), 2), 0.4, (length, length), jnp.float32)
    whole, of_whole = jax.vjp(lambda *a: attention.attend(*a, mask_ATS, kept_ATS), q, k, v)
    pieces, of_pieces = jax.vjp(lambda *a: attention.attend_causally(*a, mask_ATS, kept_ATS), q, k, v)
    np.testing.assert_allclose(pieces, whole, rtol=1e-5, atol=1e-5)
    for gradient, want in zip(of_pieces(g), of_whole(g), strict=True):
        np.testing.assert_allclose(gradient, want, rtol=1e-4, atol=1e-5)


def test_initial_parameters_are_a_function_of_the_seed():
    model = shape()
    one, same, other = (jax.jit(partial(initialize, model, V, seed))() for seed in (1, 1, 2))
    assert all((one[name] == same[name]).all() for name in one)
    assert any((one[name] != other[name]).any() for name in one)


def test_shapes_need_no_weights_and_are_those_of_the_weights():
    model = shape()
    planned, real = shapes(model, V), jax.jit(lambda: initialize(model, V, 0))()
    assert {name: leaf.shape for name, leaf in planned.items()} == {name: leaf.shape for name, leaf in real.items()}
    assert not any(isinstance(leaf, jax.Array) for leaf in planned.values())


def test_the_heads_products_are_of_its_own_dtype_and_the_stream_keeps_its_own():
    parameters = random_parameters(shape(), V)

    def logits(**dtypes):
        model = Skeleton(shape(**dtypes), V)(parameters)
        return (
            np.asarray(model(tokens_BT)),
            model.hidden(tokens_BT),
            model.embed(tokens_BT, np.arange(tokens_BT.shape[1])),
        )

    exact, x_exact, _ = logits()
    rounded, x_rounded, stream = logits(head_dtype="bfloat16")
    assert (x_exact.dtype, x_rounded.dtype, stream.dtype) == (jnp.float32, jnp.bfloat16, jnp.float32)
    matrix = parameters["unembedding_VD"].astype(jnp.bfloat16)
    want = jnp.einsum("BTD,VD->BTV", x_exact.astype(jnp.bfloat16), matrix).astype(jnp.float32)
    np.testing.assert_array_equal(rounded, want)
    assert np.any(rounded != exact)


@pytest.mark.parametrize("key", ["norm.kind", "qk_norm", "positions.kind", "activation", "residual", "init"])
def test_a_choice_that_only_the_configuration_knows_is_an_error(key):
    """It must not be computed as another one."""
    section, _, name = key.rpartition(".")
    model = shape()
    unknown = getattr(model, section).model_copy(update={name: "new"}) if section else "new"
    with pytest.raises((KeyError, AssertionError), match="new"):
        forward(model.model_copy(update={section or name: unknown}), V, random_parameters(model, V), tokens_BT)
