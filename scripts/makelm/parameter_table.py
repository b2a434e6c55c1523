"""The parameters of a model: the rate that each learns at, and the axes of a mesh that its dims lie along.

D model, N heads, K key/value heads, H head dim, F hidden, T position, V vocabulary
"""

from typing import NamedTuple

from makelm.config_training import ParameterKind
from makelm.errors import UserError


class Parameter(NamedTuple):
    """What is known of a parameter by its name."""

    kind: ParameterKind
    axes: tuple[str | None, ...]  # of each dim; None: it is whole on each device
    inputs: int = 0  # how many of a matrix's dims, the first ones, it takes in

    @property
    def matrix_axes(self) -> tuple[str | None, str | None]:
        """Returns the axes that a matrix's inputs and its outputs lie along."""
        inputs, outputs = self.axes[: self.inputs], self.axes[self.inputs :]
        return next(filter(None, inputs), None), next(filter(None, outputs), None)


# by the last part of a name
TABLE = {
    "embedding_VD": Parameter("embedding", ("tensor", "fsdp")),
    "positions_TD": Parameter("embedding", (None, "fsdp")),
    "unembedding_VD": Parameter("head", ("tensor", "fsdp")),
    "head_bias_V": Parameter("vectors", ("tensor",)),
    "query_DNH": Parameter("matrices", ("fsdp", "tensor", None), inputs=1),
    "key_DKH": Parameter("matrices", ("fsdp", "tensor", None), inputs=1),
    "value_DKH": Parameter("matrices", ("fsdp", "tensor", None), inputs=1),
    "output_NHD": Parameter("matrices", ("tensor", None, "fsdp"), inputs=2),
    "query_bias_NH": Parameter("vectors", ("tensor", None)),
    "key_bias_KH": Parameter("vectors", ("tensor", None)),
    "value_bias_KH": Parameter("vectors", ("tensor", None)),
    "output_bias_D": Parameter("vectors", (None,)),
    "gate_DF": Parameter("matrices", ("fsdp", "tensor"), inputs=1),
    "up_DF": Parameter("matrices", ("fsdp", "tensor"), inputs=1),
    "up_bias_F": Parameter("vectors", ("tensor",)),
    "inner_gate_FF": Parameter("matrices", ("fsdp", "tensor"), inputs=1),
    "inner_up_FF": Parameter("matrices", ("fsdp", "tensor"), inputs=1),
    "inner_gate_bias_F": Parameter("vectors", ("tensor",)),
    "inner_up_bias_F": Parameter("vectors", ("tensor",)),
    "down_FD": Parameter("matrices", ("tensor", "fsdp"), inputs=1),
    "down_bias_D": Parameter("vectors", (None,)),
    "scale": Parameter("vectors", (None,)),  # norms are small
    "bias": Parameter("vectors", (None,)),
}


def of(name: str) -> Parameter:
    """Returns what is known of a parameter. Raises UserError where its name is in no line of the table."""
    last = name.rpartition(".")[2]
    if last not in TABLE:
        raise UserError(
            f"the model has a parameter {name}, but parameter_table.py has no {last}: say there which rate it"
            " learns at and which axes of a mesh its dims lie along"
        )
    return TABLE[last]
