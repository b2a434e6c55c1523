"""Decoding with a cache is the same computation as the full forward pass, wherever the rows are."""

import jax
import numpy as np
import pytest
from conftest import forward, random_parameters, shape
from test_model import END, ZOO, V, every_model

from makelm import attention, decoding
from makelm.decoding import Places
from makelm.model import Skeleton

SIZE = 3  # of a chunk
tokens_BT = np.random.default_rng(0).integers(0, V - 1, (2, 14)).astype(np.int32)


def decoded(model, tokens_BT: np.ndarray, read_B: list[int], steps: int, begin_B: list[int], width: int):
    """Yields (positions_B, logits_BV) of rows that are read so far and then decoded in chunks."""
    skeleton = Skeleton(model, V, END)
    parameters = decoding.prepare(skeleton, random_parameters(model, V))
    read = jax.jit(lambda p, tokens: decoding.read(skeleton(p), tokens))
    step = jax.jit(lambda p, *now: decoding.step(skeleton(p), *now[:4], model.context_length, now[4]))
    cache = decoding.empty_cache(skeleton, 2, model.context_length)
    for row, count in enumerate(read_B):
        prompt_P = np.zeros(8, np.int32)
        prompt_P[:count] = tokens_BT[row, :count]
        cache = decoding.insert(skeleton, cache, read(parameters, prompt_P[None]), np.array([row]))
    start_B, begin_B, chunk = np.array(read_B), np.array(begin_B), None
    for number in range(steps):
        if number % SIZE == 0:
            if number:
                cache, start_B = decoding.keep(skeleton, cache, chunk, start_B), start_B + SIZE
            chunk = decoding.empty_cache(skeleton, 2, SIZE)
        position_B = start_B + number % SIZE
        now_B = tokens_BT[range(2), position_B]
        begin_B = np.where(now_B == END, position_B, begin_B) if model.mask_documents else begin_B
        places, looked = Places(start_B, position_B, begin_B), decoding.looked_at(cache, width)
        logits_BV, chunk = step(parameters, now_B, places, number % SIZE, looked, chunk)
        yield position_B, logits_BV


@every_model
def test_rows_of_different_lengths_compute_what_the_full_forward_pass_does(model):
    tokens = tokens_BT.copy()
    tokens[0, 4] = tokens[1, 7] = END
    full_BTV = forward(model, V, random_parameters(model, V), tokens)
    loose = model.compute_dtype == "bfloat16"
    begin_B = [4, 0] if model.mask_documents else [0, 0]
    for position_B, logits_BV in decoded(model, tokens, [6, 1], 8, begin_B, 14):
        expected = full_BTV[range(2), position_B]
        np.testing.assert_allclose(logits_BV, expected, rtol=1e-4, atol=0.2 if loose else 1e-4)


def test_positions_see_what_they_see_in_training(monkeypatch):
    monkeypatch.setattr(attention, "sees", lambda query, key: (key <= query) & (query - key < 3))
    test_rows_of_different_lengths_compute_what_the_full_forward_pass_does(shape())


@pytest.mark.parametrize("name", ["qwen", "others"])
def test_a_full_cache_slides_over_the_last_positions(name):
    model = shape(**ZOO[name] | {"context_length": 8, "n_layers": 1, "mask_documents": False})
    found, seen = [], []
    for position_B, logits_BV in decoded(model, tokens_BT, [7, 2], 7, [0, 0], 8):
        found += list(logits_BV)
        # one layer sees no further than its cache, and rotary positions only count distances
        seen += [tokens_BT[row, max(0, end - 7) : end + 1] for row, end in enumerate(position_B.tolist())]
    windows_BT = np.stack([np.pad(one, (0, 8 - len(one))) for one in seen])
    expected_BTV = forward(model, V, random_parameters(model, V), windows_BT)
    for logits_V, one, expected_TV in zip(found, seen, expected_BTV, strict=True):
        np.testing.assert_allclose(logits_V, expected_TV[len(one) - 1], rtol=1e-4, atol=1e-5)
