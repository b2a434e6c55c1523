"""The devices at hand: which mesh they make, and what of the weights lies on each."""

import numpy as np
import pytest
from conftest import random_parameters, shape

from makelm import at_hand, config
from makelm.meshes import AXES


@pytest.mark.parametrize(
    ("wanted", "on_eight"),
    [
        ((2, -1, 1), (2, 4, 1)),
        ((3, 1, 1), (1, 1, 1)),
        ((1, 16, 1), (1, 8, 1)),
        ((1, 2, 16), (1, 1, 8)),
        ((2, 6, 2), (2, 2, 2)),
        ((3, -1, 4), (1, 1, 4)),
        ((1, 12, 1), (1, 4, 1)),
    ],
)
def test_a_larger_mesh_is_taken_as_far_as_devices_go(wanted, on_eight):
    found = at_hand.make_mesh(config.Mesh(**dict(zip(AXES, wanted, strict=True))))
    assert tuple(found.shape[axis] for axis in AXES) == on_eight


def test_a_device_has_its_own_part_of_the_weights():
    given = random_parameters(shape(), 40)
    placed = at_hand.place(given, at_hand.make_mesh(config.Mesh(data=1, fsdp=4, tensor=2)))
    for name, array in placed.items():
        np.testing.assert_array_equal(array, given[name])
        own = max(shard.data.size for shard in array.addressable_shards)
        assert own == array.size // (8 if array.ndim > 1 else 1), name
