"""What a compiled step exchanges: sizes that can be worked out by hand, and each form that XLA writes."""

import jax
import jax.numpy as jnp
import numpy as np
from conftest import make_trainer, shape, train
from jax.sharding import Mesh, PartitionSpec

from makelm import compiled, config, meshes, sharding, training

NONE = dict.fromkeys(compiled.KINDS, 0)
# as XLA for TPUs writes it: a loop without its number of rounds, a reduce-scatter in a fusion, what only starts
TPU = """HloModule jit_step, is_scheduled=true

%all-reduce-scatter.1 (input.1: f32[64,4]) -> f32[8,4] {
  %input.1 = f32[64,4]{1,0:T(8,128)} parameter(0)
  %all-reduce.9 = f32[64,4]{1,0:T(8,128)} all-reduce(%input.1), channel_id=3, replica_groups={}, to_apply=%add
  ROOT %dynamic-slice.1 = f32[8,4]{1,0:T(8,128)} dynamic-slice(%all-reduce.9, %c, %c), dynamic_slice_sizes={8,4}
}

%body (arg: (s32[], bf16[8,4])) -> (s32[], bf16[8,4]) {
  %arg = (s32[]{:T(256)}, bf16[8,4]{1,0:T(8,128)(2,1)}) parameter(0)
  %part = bf16[8,4]{1,0:T(8,128)(2,1)} get-tuple-element(%arg), index=1
  %start = (bf16[8,4]{1,0}, bf16[64,4]{1,0}) all-gather-start(%part), channel_id=1, dimensions={0}
  %done = bf16[64,4]{1,0} all-gather-done(%start)
  %fusion.1 = f32[8,4]{1,0} fusion(%wide), kind=kCustom, calls=%all-reduce-scatter.1
  ROOT %tuple.1 = (s32[], bf16[8,4]{1,0}) tuple(%next, %part)
}

%condition (arg: (s32[], bf16[8,4])) -> pred[] {
  %constant.1 = s32[]{:T(256)} constant(3)
  %arg.1 = (s32[]{:T(256)}, bf16[8,4]{1,0}) parameter(0)
  %round = s32[]{:T(256)} get-tuple-element(%arg.1), index=0
  ROOT %lt = pred[]{:T(1024)} compare(%round, %constant.1), direction=LT
}

ENTRY %main (p: bf16[8,4]) -> bf16[8,4] {
  %p = bf16[8,4]{1,0:T(8,128)(2,1)} parameter(0)
  %while.1 = (s32[], bf16[8,4]{1,0}) while(%tuple.0), condition=%condition, body=%body
  %permuted = (pred[3], /*index=1*/s8[5]) collective-permute(%p), channel_id=2, source_target_pairs={{0,1}}
  ROOT %result = bf16[8,4]{1,0} get-tuple-element(%while.1), index=1
}
"""


def step_of(axes, layers=1, **how) -> tuple[int, dict[str, int]]:
    """Returns the bytes of a small model's weights and what one of eight devices exchanges in a step."""
    mesh = sharding.make_mesh(config.Mesh(**dict(zip(meshes.AXES, axes, strict=True))), jax.devices())
    trainer = make_trainer(shape(n_layers=layers), train(optimizer={"kind": "adamw"}), 64, mesh, **how)
    windows_BT = jax.ShapeDtypeStruct((8, 17), np.int32)
    found = compiled.exchanged(trainer.step.lower(trainer.state_shapes, windows_BT, 0).compile().as_text())
    assert found.complete
    return 4 * training.parameter_count(trainer.state_shapes["parameters"]), found.bytes_by_kind


def test_data_parallel_devices_exchange_the_gradient_once():
    parameters, found = step_of((8, 1, 1), layers=2, scan_layers=True, remat=True)
    scalars = found["all-reduce"] - parameters
    assert 0 <= scalars <= 64, (found, parameters)  # the loss and how many targets there are
    assert found | {"all-reduce": 0} == NONE


def test_devices_that_share_the_weights_gather_them():
    parameters, found = step_of((1, 8, 1))
    assert parameters <= found["all-gather"] <= 3 * parameters
    assert found["all-reduce"] <= 2 * parameters


def test_a_loop_counts_as_often_as_it_goes_round():
    mesh = Mesh(np.array(jax.devices()), ("data",))

    def passed_on(x_1R, _):
        return jax.lax.ppermute(x_1R, "data", [(i, (i + 1) % 8) for i in range(8)]), None

    def outer(x_1R):
        return jax.lax.scan(lambda x, _: (jax.lax.scan(passed_on, x, None, 5)[0] + 1, None), x_1R, None, 3)[0]

    mapped = jax.jit(jax.shard_map(outer, mesh=mesh, in_specs=PartitionSpec("data"), out_specs=PartitionSpec("data")))
    text = mapped.lower(jnp.zeros((8, 100))).compile().as_text()
    assert compiled.exchanged(text).bytes_by_kind == NONE | {"collective-permute": 3 * 5 * 4 * 100}


def test_programs_for_tpus_are_read():
    expected = {"all-gather": 3 * 2 * 64 * 4, "collective-permute": 2 * 8 * 4}
    text = TPU.replace("fusion(%wide)", "fusion(%done)")
    found = compiled.exchanged(text)
    assert found == compiled.Exchanged(NONE | expected | {"reduce-scatter": 3 * 4 * 64 * 4}, True)


def test_a_loop_of_unknown_length_is_not_passed_over_in_silence():
    found = compiled.exchanged(TPU.replace("direction=LT", "direction=NE"))
    assert not found.complete and found.bytes_by_kind["all-gather"] == 2 * 64 * 4
