"""An optional faster encoder for tiktoken's encodings: the package gigatoken, held against tiktoken on a sample."""

import importlib
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from makelm import encodings, extras
from makelm.errors import UserError
from makelm.sampled import Sample
from makelm.tokenizer import Tokenizer
from makelm.tokenizer_ranks import Ranks, begin

SCHEMES = {"gpt2": "gpt2", "cl100k_base": "gpt4", "o200k_base": "o200k"}  # encoding -> what gigatoken calls its pattern


class FastEncoder:
    """Encodes as a tokenizer does, in an eighth of the time."""

    def __init__(self, tokenizer: Tokenizer):
        """Raises UserError where the package is missing or does not know the tokenizer's pattern."""
        self.tokenizer, self.sample = tokenizer, Sample()
        self.lock = threading.Lock()  # it serves one thread at a time, with more than the others read and write
        try:
            # by name, since no stage's result depends on it: both encoders make the same ids
            gigatoken = importlib.import_module("gigatoken")
        except ImportError:
            raise UserError(
                f"tokenizer.encoder: gigatoken is not installed; run {extras.command('fast')}, or set it to tiktoken"
            ) from None
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / tokenizer.FILE
            path.write_bytes(tokenizer.content)
            self.encoder = gigatoken.Tokenizer.from_tiktoken(path, scheme(tokenizer), {})

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Returns the ids of each text as an array of uint32. Raises UserError where a sample differs from tiktoken."""
        with self.lock:
            found = [self.encoder.encode(text) for text in texts]
        differs = self.sample.first_that_differs(self.tokenizer, texts, found)
        if differs is not None:
            raise UserError(
                f"gigatoken and tiktoken make different ids of {begin(differs)}; set tokenizer.encoder: tiktoken"
            )
        return found


def scheme(tokenizer: Tokenizer) -> str:
    """Returns what gigatoken calls a tokenizer's pattern. Raises UserError where it has no name for it."""
    for name, found in SCHEMES.items():
        known = encodings.definition(name, lambda *_: {})["pat_str"]
        if isinstance(tokenizer, Ranks) and tokenizer.pattern == known:
            return found
    raise UserError("tokenizer.encoder: gigatoken does not know this tokenizer's pattern; set it to tiktoken")
