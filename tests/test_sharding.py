"""The mesh, and that no device holds more than its share."""

import jax
import numpy as np
import pytest
from conftest import make_trainer, shape, train
from layouts import GPT2

from makelm import config, parameter_table, sharding
from makelm.errors import UserError
from makelm.model import shapes


def mesh_of(data, fsdp, tensor, devices=None):
    return sharding.make_mesh(config.Mesh(data=data, fsdp=fsdp, tensor=tensor), devices or jax.devices())


def test_what_is_left_goes_to_the_axis_with_minus_one():
    assert dict(mesh_of(2, -1, 2).shape) == {"data": 2, "fsdp": 2, "tensor": 2}


@pytest.mark.parametrize("axes", [(3, -1, 1), (2, 2, 1), (16, 1, 1)])
def test_a_mesh_that_does_not_fit_says_so_in_one_line(axes):
    with pytest.raises(UserError, match=r"^mesh: data .* does not fit 8 devices"):
        mesh_of(*axes)


def test_devices_that_are_stated_and_not_there_are_named():
    for count in ("local", 8):
        sharding.check_devices(
            config.Hardware(devices=count, topology=None, memory_gb=None, packages="cpu"), jax.devices()
        )
    with pytest.raises(UserError, match=r"^hardware.devices: 256 devices are stated, JAX finds 8 \(cpu\); run it"):
        stated = config.Hardware(devices=256, topology="v3:16x8", memory_gb=16, packages="tpu")
        sharding.check_devices(stated, jax.devices())


def test_every_parameter_has_a_place_in_the_table():
    for tied in (True, False):
        for name, leaf in shapes(shape(tie_embeddings=tied), 64).items():
            assert len(parameter_table.of(name).axes) == len(leaf.shape), name


def test_a_dim_that_does_not_divide_is_named():
    with pytest.raises(UserError, match=r"mesh.tensor: embedding_VD has a dim of 63, which 2 devices"):
        sharding.parameter_sharding(mesh_of(1, 4, 2), "embedding_VD", (63, 16))


@pytest.mark.parametrize(
    ("changes", "axes", "named"),
    [
        ({"n_heads": 3, "n_kv_heads": 3}, (4, 1, 2), "mesh.tensor: .*key_DKH has a dim of 3,.* model.n_kv_heads$"),
        ({"n_kv_heads": 1}, (4, 1, 2), "mesh.tensor: .*key_DKH has a dim of 1,.* or model.n_kv_heads$"),
        ({"n_kv_heads": 4, "d_ff": 34}, (2, 1, 4), "mesh.tensor: .*mlp.*F.* has a dim of 34, .* or model.d_ff$"),
        ({"d_model": 20}, (1, 8, 1), "mesh.fsdp: .* has a dim of 20, which 8 devices .* or model.d_model$"),
        ({}, (4, 1, 2), "mesh.tensor: .*embedding_VD has a dim of 63, .* change mesh.tensor or model.vocab_multiple$"),
    ],
)
def test_a_model_that_devices_cannot_share_names_the_axis_and_the_key(changes, axes, named):
    with pytest.raises(UserError, match=f"^{named}"):
        make_trainer(shape(**changes), train(), 64 if changes else 63, mesh_of(*axes))


def test_a_batch_that_does_not_divide_is_named():
    with pytest.raises(UserError, match=r"train.batch_size: 12 rows do not divide over 8 devices"):
        sharding.check_batch(mesh_of(1, 8, 1), 12, 1)


@pytest.mark.parametrize("kind", ["muon", "adamw", "lion", "adafactor"])
def test_parameters_and_optimizer_state_lie_in_eighths(kind):
    wide = shape(**GPT2 | {"n_layers": 1, "d_model": 256, "d_head": 64, "d_ff": 1024})
    trainer = make_trainer(wide, train(optimizer={"kind": kind}, ema=0.9), 512, mesh_of(1, 8, 1))
    state = trainer.initial_state()
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    own = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state))
    assert own <= 1.05 * whole / 8


def test_an_optimizer_whose_statistics_are_smaller_than_weights_fits_every_mesh():
    trainer = make_trainer(shape(**GPT2), train(optimizer={"kind": "adafactor"}), 64, mesh_of(2, 2, 2))
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(trainer.state_shapes) if leaf.size == 1)


def test_a_mesh_gives_the_same_losses():
    """One mesh of three axes; tests/faults has more of them, and more steps."""
    windows, losses = np.random.default_rng(0).integers(0, 64, (2, 8, 17)).astype(np.int32), []
    for axes, devices in (((1, 1, 1), jax.devices()[:1]), ((2, 2, 2), None)):
        trainer = make_trainer(shape(n_layers=1), train(optimizer={"kind": "adamw"}), 64, mesh_of(*axes, devices))
        state = trainer.initial_state()
        for step in range(2):
            state, metrics = trainer.step(state, trainer.place(windows[step]), step)
        losses.append(float(metrics["loss"]))
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
