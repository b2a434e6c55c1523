"""Plans: exact where they say so, and a clear word where a run cannot fit."""

import re
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest
import yaml
from conftest import COMPUTE, HARDWARE, SHAPE, TRAIN, compute, make_trainer, shape, train

from makelm import config, configfile, devices, planning, sharding, stages
from makelm.errors import UserError
from makelm.meshes import mesh_shape
from makelm.model import shapes

V = 64


def planned(fsdp, model, settings):
    target = devices.Target(jax.devices()[:fsdp], "here", "cpu", None)
    mesh = sharding.make_mesh(config.Mesh(data=1, fsdp=fsdp, tensor=1), target.devices)
    trainer = make_trainer(model, settings, V, mesh)
    return trainer, planning.plan(trainer, target, mesh, model, settings, compute())


def test_the_plans_that_the_docs_give_can_be_made():
    root = Path(__file__).resolve().parent.parent
    section = (root / "docs/changing.md").read_text().split("## A plan for other devices\n")[1].split("\n## ")[0]
    snippets = re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)
    default = yaml.safe_load((root / "config.yaml").read_text())
    for given in map(yaml.safe_load, snippets):
        found = configfile.load(configfile.merge(default, given))
        for run in (found.run[name] for name in given["run"]):
            sizes = mesh_shape(run.mesh, run.hardware.devices)
            mesh = jax.sharding.AbstractMesh(tuple(sizes.values()), tuple(sizes))
            sharding.check_batch(mesh, run.train.batch_size, run.compute.accumulate)
            for name, leaf in shapes(run.model, found.tokenizer[run.tokenizer].vocab_size).items():
                sharding.parameter_sharding(mesh, name, leaf.shape)
    assert snippets


def test_parameters_and_flops_are_those_of_the_formula():
    model = shape(activation="relu_squared", qk_norm=None)
    plan = planned(1, model, train())[1]
    # q 16x32, k and v 16x16, o 32x16, up and down 16x32, two norms; embedding, head and the last norm
    layer = 16 * 32 * 2 + 16 * 16 * 2 + 16 * 32 * 2 + 2 * 16
    assert plan["parameters"] == 2 * layer + 2 * V * 16 + 16
    computing = plan["parameters"] - V * 16
    assert plan["flops_per_token"] == 6 * computing + 12 * 2 * 4 * 8 * 16
    assert (plan["steps"], plan["tokens"], plan["devices"]) == (12, 12 * 8 * 16, 1)
    assert set(plan["collective_bytes"].values()) == {0}


def test_state_bytes_are_those_of_the_state_on_each_mesh():
    for fsdp in (1, 8):
        model = shape(d_model=64, n_layers=1)
        trainer, plan = planned(fsdp, model, train(optimizer={"kind": "adamw"}))
        plan = plan["bytes_per_device"]
        state = trainer.initial_state()
        for part in ("parameters", "optimizer"):
            leaves = jax.tree.leaves(state[part])
            assert plan[part] == sum(leaf.addressable_shards[0].data.nbytes for leaf in leaves), (fsdp, part)
        assert plan["gradients"] == plan["parameters"]
        assert plan["temporary"] > 0


def test_of_no_step_a_plan_is_that_of_the_weights_and_of_validation():
    plan = planned(1, shape(), train(steps=0, ema=0.9))[1]
    bytes_of = plan["bytes_per_device"]
    assert bytes_of["parameters"] == 4 * plan["parameters"]
    assert "average" not in bytes_of and bytes_of["optimizer"] == bytes_of["gradients"] == plan["flops"] == 0


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"bad_steps": "skip"}, False),
        ({"publish": "best"}, False),
        ({"optimizer": {"rate_multipliers": {"mlp": 0.5}}}, False),
        ({"optimizer": {"clip_norm": 1.0}}, False),
        ({"optimizer": {"beta1": 0.5}}, False),  # 1 - 0.5 is the same number
        ({"optimizer": {"learning_rates": {"matrices": 0.5, "head": 0.7}}}, True),
    ],
)
def test_what_changes_bytes_is_among_the_keys_of_a_plan(changes, same):
    bytes_of, keys = [], []
    for settings in (TRAIN, configfile.merge(TRAIN, changes)):
        sections = {"model": SHAPE, "hardware": HARDWARE, "compute": COMPUTE, "train": settings}
        raw = sections | {"locked": {}, "mesh": {"data": 1, "fsdp": 1, "tensor": 1}}
        run = configfile.parse(stages.PlanRun, raw, "test")
        bytes_of.append(planned(1, run.model, run.train)[1]["bytes_per_device"])
        keys.append(run.result_keys())
    assert (bytes_of[0] == bytes_of[1], keys[0] == keys[1]) == (same, same)


def test_a_run_that_cannot_fit_is_refused_with_what_to_change():
    def check(needed, memory):
        planning.check_fit(needed, devices.Target(jax.devices(), "here", "cpu", memory))

    check(10**9, 2 * 10**9)
    check(10**12, None)  # of a device that does not say
    with pytest.raises(UserError, match=r"needs 3\.00 GB on each device, cpu has 2\.00 GB; raise compute\.accumulate"):
        check(3 * 10**9, 2 * 10**9)


def test_a_step_that_libtpu_refuses_says_what_to_change():
    def refuse():
        raise jax.errors.JaxRuntimeError(
            "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for HLO"
            " temporaries (24.21G) exceeds available HBM (15.48G). HLO module: jit_step."
        )

    lowered = SimpleNamespace(compile=refuse)
    trainer = SimpleNamespace(state_shapes={}, step=SimpleNamespace(lower=lambda *_: lowered))
    target = devices.Target(jax.devices()[:1], "topology", "TPU v3", None)
    mesh = sharding.make_mesh(config.Mesh(data=1, fsdp=1, tensor=1), target.devices)
    with pytest.raises(
        UserError, match=r"needs 24\.21 GiB beside .*, TPU v3 has 15\.48 GiB; raise compute\.accumulate"
    ):
        planning.compile_step(trainer, target, mesh, train(), compute(), 17)
