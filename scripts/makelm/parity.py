"""Whether an exported folder computes what the model computes: measured at every export, on a few random tokens."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from makelm import reference
from makelm.errors import UserError
from makelm.hugging_face_layouts import layout
from makelm.model import Skeleton
from makelm.weights import Weights

ROWS, LENGTH = 2, 64
BOUND = 1e-4  # on the difference, as a share of the largest logit where that is over 1


def measure(folder: Path, trained: Weights, dtype: str) -> dict:
    """Returns how far the folder's logits are from the model's, both computed from float32 on."""
    rng = np.random.default_rng(0)
    length = min(LENGTH, trained.model.context_length)
    tokens_BT = rng.integers(0, trained.vocab_size, (ROWS, length)).astype(np.int32)
    theirs_BTV = reference.logits(folder, tokens_BT)
    return {
        "architecture": layout(trained.model).architecture,
        "dtype": dtype,
        "tokens": tokens_BT.size,
        "max_logit_difference": float(np.max(np.abs(theirs_BTV - own_logits(trained, tokens_BT)))),
        "largest_logit": float(np.max(np.abs(theirs_BTV))),
    }


def own_logits(trained: Weights, tokens_BT: np.ndarray) -> np.ndarray:
    """Returns the model's logits_BTV, computed in float32 and with every token in sight of those after it."""
    plain = {"compute_dtype": "float32", "residual_dtype": "float32", "head_dtype": "float32", "mask_documents": False}
    skeleton = Skeleton(trained.model.model_copy(update=plain), trained.vocab_size)
    parameters = {name: jnp.array(value) for name, value in trained.parameters.items()}  # one after the other
    return np.asarray(jax.jit(lambda p, t: skeleton(p)(t))(parameters, tokens_BT))


def check(measured: dict) -> None:
    """Raises UserError where an export in float32 computes something else."""
    difference, largest = measured["max_logit_difference"], measured["largest_logit"]
    if measured["dtype"] == "float32" and not difference <= BOUND * max(1, largest):
        raise UserError(
            f"the export as {measured['architecture']} does not compute what the model does: logits differ by up to"
            f" {difference:.2g} (the largest is {largest:.3g}); nothing is published, and this is a bug to report"
        )
