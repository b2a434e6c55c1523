"""Makes the files that tests/test_golden.py reads: small models and what Hugging Face's transformers computes of them.

`make golden` runs this. Each file holds the parameters under makelm's names (random, exact in float16), tokens_BT, and
what transformers makes of them in float32: the logits of the last positions, the mean loss and the gradient of the
first rows of the input embedding.
"""

import tempfile
from pathlib import Path

import numpy as np
from conftest import random_parameters, shape
from layouts import GOLDEN
from sides import run_transformers, write_export

from makelm import weights

VOCAB, POSITIONS, ROWS = 40, 4, 8


def main() -> None:
    """Writes all of them."""
    tokens_BT = np.random.default_rng(0).integers(0, VOCAB, (2, 16)).astype(np.int32)
    models = {name: shape(**GOLDEN[name]) for name in GOLDEN}
    made = {name: rounded(random_parameters(model, VOCAB)) for name, model in models.items()}
    with tempfile.TemporaryDirectory() as root:
        for name, model in models.items():
            write_export(weights.Weights(model, VOCAB, None, "", made[name]), tokens_BT, Path(root) / name)
        run_transformers(Path(root))
        for name in GOLDEN:
            theirs = np.load(Path(root) / name / "out.npz")
            assert not theirs["problems"].tolist(), theirs["problems"]
            np.savez_compressed(
                Path(__file__).with_name(f"{name}.npz"),
                tokens=tokens_BT,
                logits=theirs["logits"][:, -POSITIONS:],
                loss=theirs["loss"],
                gradient=theirs["gradient"][:ROWS],
                **{f"parameters/{each}": value.astype(np.float16) for each, value in made[name].items()},
            )


def rounded(parameters: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns parameters that float16 holds as they are."""
    return {name: value.astype(np.float16).astype(np.float32) for name, value in parameters.items()}


if __name__ == "__main__":
    main()
