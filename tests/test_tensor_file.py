"""safetensors files: as others read them, equal bytes for equal tensors, one tensor in memory at a time."""

import json
import weakref
from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from makelm import tensor_file
from makelm.tensor_file import Planned

TENSORS = {"b": np.arange(6, dtype=np.float32).reshape(2, 3) / 7, "a.c": np.ones(5, np.float32)}


def plan(tensors):
    return [Planned(name, value.shape, partial(np.asarray, value)) for name, value in tensors.items()]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_others_read_what_is_written_and_the_order_of_writing_is_that_of_the_names(dtype, tmp_path):
    path = tmp_path / "file"
    tensor_file.write(path, plan(TENSORS), dtype, {"format": "pt"})
    found = load_file(path)
    assert list(found) == ["a.c", "b"]
    for name, value in TENSORS.items():
        np.testing.assert_array_equal(found[name], value.astype(jnp.dtype(dtype)))
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    assert length % 8 == 0 and json.loads(content[8 : 8 + length])["__metadata__"] == {"format": "pt"}
    tensor_file.write(path, reversed(plan(TENSORS)), dtype, {"format": "pt"})
    assert path.read_bytes() == content


def test_a_tensor_is_let_go_of_before_the_next_is_made(tmp_path):
    made = []

    def make():
        assert all(array() is None for array in made)
        array = np.zeros((3, 4), np.float32)
        made.append(weakref.ref(array))
        return array

    tensor_file.write(tmp_path / "file", [Planned(name, (3, 4), make) for name in "abc"], "float32", {})
    assert len(made) == 3


def test_a_tensor_is_read_when_it_is_asked_for(tmp_path):
    path = tmp_path / "file"
    tensor_file.write(path, plan(TENSORS), "float32", {"by": "a test"})
    stored = tensor_file.Stored(path)
    assert list(stored) == ["a.c", "b"] and len(stored) == 2 and stored.metadata == {"by": "a test"}
    assert "missing" not in stored
    tensor_file.write(path, plan({name: value + 1 for name, value in TENSORS.items()}), "float32", {})
    np.testing.assert_array_equal(stored["b"], TENSORS["b"] + 1)
