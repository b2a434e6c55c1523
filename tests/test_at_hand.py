"""The devices at hand: which mesh they make, and what of the weights lies on each."""

import numpy as np
from conftest import random_parameters, shape

from makelm import at_hand, config


def test_a_mesh_that_does_not_fit_the_devices_is_one_of_a_single_device():
    assert at_hand.make_mesh(config.Mesh(data=3, fsdp=1, tensor=1)).size == 1
    assert at_hand.make_mesh(config.Mesh(data=2, fsdp=-1, tensor=1)).shape["fsdp"] == 4


def test_a_device_has_its_own_part_of_the_weights():
    given = random_parameters(shape(), 40)
    placed = at_hand.place(given, at_hand.make_mesh(config.Mesh(data=1, fsdp=4, tensor=2)))
    for name, array in placed.items():
        np.testing.assert_array_equal(array, given[name])
        own = max(shard.data.size for shard in array.addressable_shards)
        assert own == array.size // (8 if array.ndim > 1 else 1), name
