"""What the tests share. Eight simulated devices; ranks must match, so that a shape suffix cannot lie."""

import atexit
import os
import shutil
import tempfile

# the tests compile far more than they compute
FLAGS = (
    "--xla_force_host_platform_device_count=8"
    " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
# programs that the tests start compile the same functions again and again
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="makelm-tests-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

from pathlib import Path

import jax
import numpy as np
import pytest

from makelm import config, configfile, loss, training
from makelm.model import Skeleton, Transformer, shapes

# fixtures of the tests of programs
pytest_plugins = ("browser", "checkout", "served", "slurm", "telling", "training_stage")

# their tests are few and long: begun last, they would leave one of two processes waiting for the other
FIRST = ("test_workflow.py", "test_train_stage.py", "test_training.py", "test_kills.py", "test_processes.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the files with long tests first; the others stay as they are."""
    items.sort(key=lambda item: item.path.name not in FIRST)


SHAPE = {
    "context_length": 16,
    "n_layers": 2,
    "d_model": 16,
    "n_heads": 4,
    "n_kv_heads": 2,
    "d_head": 8,
    "d_ff": 32,
    "vocab_multiple": 1,
    "norm": {"kind": "rmsnorm", "scale": True, "bias": False, "eps": 1e-6},
    "qk_norm": "rmsnorm",
    "positions": {"kind": "rope", "base": 10000, "dims": None, "pairs": "halves"},
    "activation": "swiglu",
    "residual": "serial",
    "biases": {"attention": False, "mlp": False, "head": False},
    "tie_embeddings": False,
    "logit_soft_cap": None,
    "dropout": 0,
    "mask_documents": False,
    "init": "zero_out",
    "compute_dtype": "float32",
    "residual_dtype": "float32",
    "head_dtype": "float32",
    "parameter_dtype": "float32",
}
COMPUTE = {"attention": "xla", "scan_layers": False, "remat": False, "accumulate": 1, "deterministic": True}
TRAIN = {
    "seed": 0,
    "steps": 12,
    "batch_size": 8,
    "order": "shuffled",
    "optimizer": {
        "kind": "muon",
        "learning_rates": {"matrices": 0.02, "embedding": 0.02, "head": 0.01, "vectors": 0.01},
        "rate_multipliers": {},
        "beta1": 0.9,
        "beta2": 0.95,
        "eps": 1e-8,
        "momentum": 0.95,
        "weight_decay": 0.0,
        "independent_decay": False,
        "decay": ["matrices", "embedding", "head"],
        "decay_except": [],
        "clip_norm": None,
    },
    "schedule": {
        "kind": "linear",
        "warmup_steps": 2,
        "warmup_start": None,
        "decay_fraction": 0.5,
        "decay_end": None,
        "final": 0.0,
    },
    "z_loss": 0.0,
    "ema": None,
    "publish": "last",
    "validate_every": 6,
    "validate_windows": 8,
    "max_gradient_norm": None,
    "bad_steps": "stop",
    "checkpoint_every": 4,
    "checkpoint_minutes": None,
    "keep_checkpoints": 2,
    "keep_every": None,
    "keep_best": False,
    "time_limit": None,
    "lock_wait": 60,
    "resume_from": None,
    "log_every": 1,
    "statistics_every": None,
    "profile_steps": None,
}
HARDWARE = {"devices": "local", "topology": None, "memory_gb": None, "packages": "cpu"}
TRACKING = {"wandb": None, "project": "makelm", "entity": None}


def shape(**changes) -> config.Model:
    """Returns a small model's shape; nested changes are laid over."""
    return configfile.parse(config.Model, configfile.merge(SHAPE, changes), "test")


def train(**changes) -> config.Train:
    """Returns small training keys; nested changes are laid over."""
    return configfile.parse(config.Train, configfile.merge(TRAIN, changes), "test")


def compute(**changes) -> config.Compute:
    """Returns how to compute, unless changed as plainly as can be."""
    return configfile.parse(config.Compute, COMPUTE | changes, "test")


def make_trainer(model: config.Model, settings: config.Train, vocab_size: int, mesh, **how) -> training.Trainer:
    """Returns a trainer of a vocabulary whose last token ends a text."""
    return training.make_trainer(model, settings, compute(**how), vocab_size, vocab_size - 1, mesh)


def mean_loss(model: Transformer, windows_BT: np.ndarray) -> jax.Array:
    """Returns the mean cross-entropy of windows of T + 1 tokens."""
    return jax.numpy.sum(loss.losses(model, windows_BT)[1]) / loss.targets_in(windows_BT)


def validation_loss(trainer: training.Trainer, state: dict, windows_WT: np.ndarray, batch_size: int) -> float:
    """Returns the mean loss of validation windows."""
    return training.begin_validation(trainer, state, windows_WT, batch_size)()["validation_loss"]


def random_parameters(model: config.Model, vocab_size: int) -> dict:
    """Returns parameters none of which is zero or one, so that each has a part in the output."""
    rng = np.random.default_rng(0)
    planned = shapes(model, vocab_size)
    spread = {name: 0.3 * rng.standard_normal(leaf.shape, np.float32) for name, leaf in planned.items()}
    return {name: value + 1 if name.endswith("scale") else value for name, value in spread.items()}


def forward(model: config.Model, vocab_size: int, parameters: dict, tokens_BT: np.ndarray) -> np.ndarray:
    """Returns logits_BTV of the full forward pass."""
    return np.asarray(jax.jit(lambda p, t: Skeleton(model, vocab_size, vocab_size - 1)(p)(t))(parameters, tokens_BT))


@pytest.fixture
def shakespeare() -> Path:
    """Returns tiny shakespeare (1,115,394 characters), or skips the test."""
    path = Path(os.environ.get("MAKELM_TEST_SHAKESPEARE", "tinyshakespeare.txt"))
    if not path.exists():
        pytest.skip("MAKELM_TEST_SHAKESPEARE does not name tiny shakespeare's file")
    return path
