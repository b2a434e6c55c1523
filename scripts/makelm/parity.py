"""Whether an exported folder computes what the model computes: measured at every export, on a few random tokens."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from makelm import reference
from makelm.hugging_face_layouts import NoClass, layout
from makelm.model import Skeleton
from makelm.weights import Weights

ROWS, LENGTH = 2, 64
BOUND = 1e-4  # on the difference, as a share of the largest logit where that is over 1


def measure(folder: Path, trained: Weights, dtype: str) -> dict:
    """Returns how far the folder's logits are from the model's, and from those of its weights rounded as there."""
    rng = np.random.default_rng(0)
    length = min(LENGTH, trained.model.context_length)
    tokens_BT = rng.integers(0, trained.vocab_size, (ROWS, length)).astype(np.int32)
    theirs_BTV = reference.logits(folder, tokens_BT)

    def difference(rounded: str) -> float:
        return float(np.max(np.abs(theirs_BTV - own_logits(trained, tokens_BT, rounded))))

    exact = difference("float32")
    return {
        "architecture": layout(trained.model).architecture,
        "dtype": dtype,
        "tokens": tokens_BT.size,
        "max_logit_difference": exact,
        "max_logit_difference_rounded": exact if dtype == "float32" else difference(dtype),
        "largest_logit": float(np.max(np.abs(theirs_BTV))),
    }


def own_logits(trained: Weights, tokens_BT: np.ndarray, rounded: str) -> np.ndarray:
    """Returns the model's logits_BTV, computed in float32 of weights rounded to this dtype.

    Every token is in sight of those after it.
    """
    plain = {"compute_dtype": "float32", "residual_dtype": "float32", "head_dtype": "float32", "mask_documents": False}
    skeleton = Skeleton(trained.model.model_copy(update=plain), trained.vocab_size)
    # one after the other
    parameters = {
        name: jnp.array(value).astype(rounded).astype(jnp.float32) for name, value in trained.parameters.items()
    }
    return np.asarray(jax.jit(lambda p, t: skeleton(p)(t))(parameters, tokens_BT))


def check(measured: dict) -> None:
    """Raises NoClass where an export computes something else than the model whose weights are rounded as there."""
    if not measured["max_logit_difference_rounded"] <= BOUND * max(1, measured["largest_logit"]):
        raise NoClass(
            f"{measured['architecture']}, which has its keys, computes something else; unless model.py was edited,"
            " this is a bug to report"
        )
