"""The optional faster encoder: held against tiktoken, refused where it cannot serve."""

import importlib
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from vocabularies import ADVERSARIAL, TEXTS, settings, train

from makelm import encodings, fast_encoder, sampled
from makelm.errors import UserError
from makelm.tokenizer_ranks import Ranks


@pytest.fixture(params=["gpt2", "cl100k_base", "o200k_base"])
def small(request) -> Ranks:
    """Returns an encoding with its pattern and few ranks."""
    few = train(settings(), [*TEXTS, *ADVERSARIAL]).ranks
    found = encodings.definition(request.param, lambda *_: few)
    return Ranks("tiktoken", found["pat_str"], few, {}, None, None)


def pretend(monkeypatch, tokenizer: Ranks, wrong: str) -> None:
    """Puts a gigatoken in place that makes other ids of one text."""

    def encode(text: str) -> np.ndarray:
        return tokenizer.encode_text("other" if text == wrong else text)

    loaded = SimpleNamespace(from_tiktoken=lambda path, scheme, special: SimpleNamespace(encode=encode))
    monkeypatch.setitem(sys.modules, "gigatoken", SimpleNamespace(Tokenizer=loaded))


def test_one_text_in_so_many_is_held_against_tiktoken(small, monkeypatch):
    pretend(monkeypatch, small, "wrong")
    texts = ["right"] * sampled.EVERY
    fast = fast_encoder.FastEncoder(small)
    assert [ids.tolist() for ids in fast.encode_batch(texts)] == [small.encode("right")] * len(texts)
    with pytest.raises(UserError, match=r"different ids of .*'wrong'; set tokenizer\.encoder: tiktoken"):
        fast.encode_batch(["wrong"])
    with pytest.raises(UserError, match="different ids"):  # the first of all is always one
        fast_encoder.FastEncoder(small).encode_batch(["wrong", "right"])


def test_it_serves_one_thread_at_a_time(small, monkeypatch):
    pretend(monkeypatch, small, "")
    fast, busy = fast_encoder.FastEncoder(small), threading.Lock()

    def encode(text: str) -> np.ndarray:
        assert busy.acquire(blocking=False), "already borrowed"
        time.sleep(0.001)
        busy.release()
        return small.encode_text(text)

    fast.encoder = SimpleNamespace(encode=encode)
    with ThreadPoolExecutor(4) as pool:
        assert len(list(pool.map(fast.encode_batch, [["a", "b"]] * 20))) == 20


def test_without_the_package_or_a_pattern_it_knows_it_says_what_to_do(small, monkeypatch):
    monkeypatch.setitem(sys.modules, "gigatoken", None)
    with pytest.raises(
        UserError, match=r"not installed; run \.venv/bin/uv sync --locked --inexact --extra fast, or set"
    ):
        fast_encoder.FastEncoder(small)
    pretend(monkeypatch, small, "")
    with pytest.raises(UserError, match="does not know this tokenizer's pattern"):
        fast_encoder.FastEncoder(train(settings(), TEXTS))


def test_the_package_makes_the_same_ids(small):
    if importlib.util.find_spec("gigatoken") is None:
        pytest.skip("gigatoken is not installed")
    texts = [*TEXTS, *ADVERSARIAL]
    fast = fast_encoder.FastEncoder(small).encode_batch(texts)
    assert [ids.tolist() for ids in fast] == [small.encode(text) for text in texts]
