"""What tokens cost a trained model: its forward pass over rows of fixed shapes, on a run's mesh.

B batch, T position
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from makelm import at_hand, sharding
from makelm.loss import token_losses
from makelm.model import Skeleton
from makelm.weights import Weights

ROWS = 16  # of one forward pass; a last one is filled up, so that no number depends on how many there are


class Scorer:
    """A trained model whose weights lie on a mesh."""

    def __init__(self, trained: Weights, mesh: Mesh, rows: int = ROWS):
        """`rows` are those of one forward pass; each group of devices has as many."""
        groups = sharding.parts(mesh, "data", "fsdp")
        self.rows = -(-rows // groups) * groups
        self.context = trained.model.context_length
        self.trained, self.mesh, vocab_size = trained, mesh, trained.vocab_size
        self.parameters = at_hand.place(trained.parameters, mesh)
        self.layout = NamedSharding(mesh, sharding.BATCH)
        skeleton = Skeleton(trained.model, vocab_size, trained.end_of_text, mesh)

        @jax.jit
        def forward(parameters, inputs_BT, targets_BT):
            logits_BTV = skeleton(parameters)(inputs_BT)
            likeliest_BT = jnp.argmax(logits_BTV[..., :vocab_size], axis=-1)  # the rest fills the vocabulary up
            return token_losses(logits_BTV, targets_BT), likeliest_BT == targets_BT

        self.forward = forward

    def __call__(self, inputs_BT: np.ndarray, targets_BT: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns losses_BT, in nats and float64, and whether each target is the likeliest token."""
        placed = (jax.device_put(tokens_BT, self.layout) for tokens_BT in (inputs_BT, targets_BT))
        losses_BT, greedy_BT = self.forward(self.parameters, *placed)
        return np.asarray(losses_BT, np.float64), np.asarray(greedy_BT)
