"""Weights files: equal bytes for equal weights, self-describing, refused when damaged or of another tokenizer."""

import json
from dataclasses import replace

import numpy as np
import pytest
from conftest import random_parameters, shape

from makelm import manifest, tensor_file, weights
from makelm.errors import UserError

MADE = weights.Weights(shape(), 30, 29, "abc", random_parameters(shape(), 30))


def test_round_trip_and_equal_bytes(tmp_path):
    for name in ("a", "b"):
        weights.save(MADE, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    found = weights.load(tmp_path / "a")
    assert (found.model, found.vocab_size, found.end_of_text, found.tokenizer) == (shape(), 30, 29, "abc")
    for name, value in MADE.parameters.items():
        np.testing.assert_array_equal(found.parameters[name], value)


def test_parameters_of_an_opened_file_are_read_when_they_are_asked_for(tmp_path):
    path = tmp_path / "model.safetensors"
    weights.save(MADE, path)
    opened = weights.open_file(path)
    assert opened.model == shape() and set(opened.parameters) == set(MADE.parameters)
    doubled = {name: 2 * value for name, value in MADE.parameters.items()}
    weights.save(replace(MADE, parameters=doubled), path)
    np.testing.assert_array_equal(opened.parameters["embedding_VD"], doubled["embedding_VD"])


def test_damage_and_absence_are_one_line(tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(UserError, match="is missing; run train_model"):
        weights.load(path)
    weights.save(MADE, path)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(UserError, match="is damaged"):
        weights.load(path)


def test_a_model_of_another_version_is_one_line(tmp_path):
    path = tmp_path / "model.safetensors"
    old = {key: value for key, value in shape().model_dump().items() if key != "qk_norm"} | {"heads": 2}
    metadata = {"makelm": json.dumps({"model": old, "vocab_size": 30, "end_of_text": 29, "tokenizer": "abc"})}
    tensor_file.write(path, [], "float32", metadata)
    with pytest.raises(UserError, match="is of another version of makelm; run train_model again"):
        weights.load(path)


def test_another_tokenizer_is_refused_with_both_names():
    with pytest.raises(UserError, match="tokenizer abc, but here is xyz"):
        weights.check_tokenizer(MADE, "xyz", "here")


def test_a_flipped_byte_is_noticed_before_the_weights_are_used(tmp_path):
    path = tmp_path / weights.FILE
    path.parent.mkdir()
    weights.save(MADE, path)
    content = {"stage": "train_model", "files": manifest.describe_files(tmp_path, frozenset())}
    assert weights.open_run(tmp_path, lambda name, path: content).vocab_size == 30
    damaged = bytearray(path.read_bytes())
    damaged[-5] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(UserError, match="is damaged: its sha256 is not the one in its manifest"):
        weights.open_run(tmp_path, lambda name, path: content)
