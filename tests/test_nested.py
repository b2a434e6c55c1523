"""Nested keys with dotted names, and where two of them differ."""

from makelm import nested
from makelm.identities import Identity, differences


def optimizer(multipliers: dict) -> dict:
    """Returns a training's keys with these factors on its rates."""
    return {"train": {"steps": 8, "optimizer": {"rate_multipliers": multipliers}}}


def test_an_empty_map_is_a_value_and_no_missing_key():
    name = "train.optimizer.rate_multipliers"
    assert nested.flat(optimizer({})) == {"train.steps": 8, name: {}}
    assert nested.flat(optimizer({"mlp": 0.5})) == {"train.steps": 8, f"{name}.mlp": 0.5}
    assert list(nested.differences(optimizer({}), optimizer({"mlp": 0.5}))) == [(f"{name}.mlp", nested.ABSENT, 0.5)]
    assert list(nested.differences({"stop": {}}, {})) == [("stop", {}, nested.ABSENT)]


def test_null_and_a_missing_key_differ_as_their_digests_do():
    assert list(nested.differences({"b": 1, "a": None}, {"b": 1})) == [("a", None, nested.ABSENT)]


def test_a_map_in_place_of_a_value_is_one_difference():
    clean = {"ftfy": None, "deduplicate": True}
    assert list(nested.differences({"clean": None}, {"clean": clean})) == [("clean", None, clean)]


def test_identities_differ_in_words():
    own, other = (Identity(optimizer(each), {"shards": str(each)}, "code") for each in ({}, {"mlp": 0.5}))
    keys = "train.optimizer.rate_multipliers.mlp is absent, there 0.5"
    assert differences(own, other) == [keys, "another shards"]
    assert differences(own, Identity(own.config, own.inputs, "other")) == ["other code"]
