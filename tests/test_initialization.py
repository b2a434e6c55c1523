"""How weights begin: a blind guess where the scheme is sane, and the spreads that the seeds' systems have."""

from functools import partial
from math import log, sqrt

import jax
import numpy as np
import pytest
from conftest import mean_loss, shape
from layouts import GPT2
from test_model import PICODO

from makelm.model import Skeleton, initialize

V = 512
WIDE = {"d_model": 128, "n_heads": 4, "n_kv_heads": 4, "d_head": 32, "d_ff": 256, "context_length": 128, "n_layers": 1}
BLOCK = "blocks.0."


def begin(**changes):
    model = shape(**changes)
    return model, jax.jit(partial(initialize, model, V, 0))()


@pytest.mark.parametrize(("scheme", "family"), [("zero_out", {}), ("gpt2", GPT2), ("fan_in", PICODO)])
def test_the_first_loss_is_that_of_a_blind_guess(scheme, family):
    model, parameters = begin(**family | WIDE | {"init": scheme})
    windows_BT = np.random.default_rng(0).integers(0, V, (4, 65)).astype(np.int32)
    value = jax.jit(lambda p: mean_loss(Skeleton(model, V)(p), windows_BT))(parameters)
    # a normed stream under a head of unit gain makes logits that are spread by one: half a nat, which picodo chose
    surplus = 0.5 if scheme == "fan_in" else 0
    assert abs(float(value) - log(V) - surplus) < 0.1


@pytest.mark.parametrize(
    ("scheme", "spreads"),
    [
        ("zero_out", {"embedding_VD": 1, "attention.query_DNH": 1 / sqrt(128), "mlp.down_FD": 0}),
        ("fan_in", {"embedding_VD": 1 / sqrt(128), "attention.output_NHD": 1 / sqrt(128), "mlp.down_FD": 1 / 16}),
        ("xavier", {"positions_TD": 1 / sqrt(128), "attention.query_DNH": sqrt(1 / 128), "mlp.up_DF": sqrt(2 / 384)}),
        ("gpt2", {"embedding_VD": 0.02, "positions_TD": 0.02, "mlp.up_DF": 0.02, "mlp.down_FD": 0.01}),
        ("gptj", {"embedding_VD": 0.88 / sqrt(V), "mlp.up_DF": 0.88 / sqrt(128), "mlp.down_FD": 0.88 / sqrt(128)}),
        (
            "uniform",
            {"embedding_VD": 1, "mlp.up_DF": 1 / sqrt(3 * 128), "mlp.inner_up_FF": 1, "mlp.inner_up_bias_F": 1},
        ),
    ],
)
def test_weights_are_spread_as_the_scheme_says(scheme, spreads):
    family = GPT2 | {"activation": "swiglu_layer", "biases": {}} if scheme == "uniform" else GPT2
    _, parameters = begin(**family | WIDE | {"init": scheme, "n_layers": 2})
    for name, spread in spreads.items():
        values = parameters[name] if name in parameters else parameters[BLOCK + name]
        assert float(values.std()) == pytest.approx(spread, rel=0.12 if values.ndim == 1 else 0.03), name
        assert abs(float(values.mean())) <= 0.15 * spread


def test_layers_begin_each_with_weights_of_their_own():
    _, parameters = begin(**GPT2 | WIDE | {"init": "uniform", "n_layers": 2})
    assert (parameters["blocks.0.mlp.up_DF"] != parameters["blocks.1.mlp.up_DF"]).mean() > 0.99


def test_a_model_stored_in_bfloat16_begins_there():
    _, parameters = begin(parameter_dtype="bfloat16")
    assert {str(value.dtype) for value in parameters.values()} == {"bfloat16"}
