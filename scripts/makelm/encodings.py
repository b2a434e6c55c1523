"""What tiktoken knows of its encodings: pattern, special tokens, and where their ranks are."""

from collections.abc import Callable
from typing import Any
from unittest import mock

from tiktoken_ext import openai_public


def definition(encoding: str, read: Callable[[str, str], dict[bytes, int]]) -> dict[str, Any]:
    """Returns what tiktoken says of an encoding, its ranks by `read`, which gets their address and sha256."""
    name = "r50k_base" if encoding == "gpt2" else encoding  # the same tokens, in one file instead of two

    def load(address: str, expected_hash: str) -> dict[bytes, int]:
        return read(address, expected_hash)

    # the patterns stand in functions that load the ranks first, each for itself
    with mock.patch.object(openai_public, "load_tiktoken_bpe", load):
        return openai_public.ENCODING_CONSTRUCTORS[name]()
