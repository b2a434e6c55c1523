"""makelm in the architecture of one of its peers: its settings and its training step; scripts/ must be importable."""

from pathlib import Path

import jax
import yaml

from makelm import config, configfile, sharding, training

ROOT = Path(__file__).resolve().parent.parent


def settings(given: dict) -> config.Run:
    """Returns a run of a shape of train_step.py in an architecture, with a dtype and compute keys.

    AdamW with the peer's decay and clipping, and a cosine schedule, which all peers have.
    """
    T, D = given["context"], given["width"]
    run = yaml.safe_load((ROOT / "benchmarks/architectures.yaml").read_text())[given["architecture"]]
    heads = {"n_heads": given["heads"], "n_kv_heads": given["heads"], "d_head": D // given["heads"]}
    sizes = {"context_length": T, "n_layers": given["layers"], "d_model": D, "d_ff": 4 * D} | heads
    stream = given.get("stream_dtype", given["dtype"])
    dtypes = {"compute_dtype": given["dtype"], "residual_dtype": stream, "head_dtype": stream}
    run["model"] |= sizes | dtypes
    run["train"] |= {"steps": 100_000, "batch_size": given["batch"]}
    rates = dict.fromkeys(("matrices", "embedding", "head", "vectors"), 1e-3)
    run["train"]["optimizer"] |= {"kind": "adamw", "learning_rates": rates, "beta2": 0.99, "eps": 1e-8}
    run["train"]["schedule"] = {"kind": "cosine", "warmup_steps": 100, "decay_fraction": 1.0, "final": 0.1}
    run |= {"base": "stdlib", "compute": given["compute"]}
    run |= {"sample": {"max_new_tokens": 1}, "evaluate": {"window": T, "stride": T}}
    raw = yaml.safe_load((ROOT / "config.yaml").read_text())
    raw["run"]["bench"] = run
    return configfile.load(raw).run["bench"]


def trainer(given: dict) -> training.Trainer:
    """Returns what train_model compiles for it."""
    run = settings(given)
    mesh = sharding.make_mesh(run.mesh, jax.devices()[: given.get("devices")])
    return training.make_trainer(run.model, run.train, run.compute, given["vocabulary"], None, mesh)
