"""The compiled training step does not grow: its operations and bytes, as XLA counts them, stand in a file.

`python tests/faults/test_step_cost.py` writes them anew, for a change that is meant to.
"""

import json
import os
import sys
from pathlib import Path

import jax
import jaxlib
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
FILE = ROOT / "tests/golden/step_cost.json"
SLACK = 1.005

sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "scripts")]
import own_step  # noqa: E402
import train_step  # noqa: E402

from makelm import loss  # noqa: E402

if "MAKELM_FAULTS" not in os.environ and __name__ != "__main__":
    pytest.skip("make test-faults runs these", allow_module_level=True)


def cost(name: str) -> dict[str, float]:
    """Returns operations, bytes read and written, and bytes of temporaries of the step in one of the shapes."""
    temporary = compiled_step(name).memory_analysis().temp_size_in_bytes
    with pytest.MonkeyPatch.context() as patch:
        # XLA counts what is in a loop once: so the loss in one part, of all positions
        patch.setitem(loss.LOGITS, "cpu", 2**40)
        counts = compiled_step(name).cost_analysis()
    return {"operations": counts["flops"], "bytes": counts["bytes accessed"], "temporary_bytes": temporary}


def compiled_step(name: str) -> jax.stages.Compiled:
    """Returns the step in one of the shapes."""
    shape = train_step.SHAPES[name]
    given = shape | {"architecture": "nanogpt", "dtype": "float32", "compute": train_step.COMPUTE, "devices": 1}
    trainer = own_step.trainer(given)
    windows_BT = jax.ShapeDtypeStruct((shape["batch"], shape["context"] + 1), np.int32)
    return trainer.step.lower(trainer.state_shapes, windows_BT, 0).compile()


@pytest.mark.parametrize("name", train_step.SHAPES)
def test_the_compiled_step_does_no_more_than_it_did(name):
    known = json.loads(FILE.read_text())
    if known["jaxlib"] != jaxlib.__version__:
        pytest.skip(f"counted by jaxlib {known['jaxlib']}, this is {jaxlib.__version__}")
    for kind, now in cost(name).items():
        assert now <= known[name][kind] * SLACK, f"{kind}: {now:,.0f} were {known[name][kind]:,.0f}"


if __name__ == "__main__":
    costs = {name: cost(name) for name in train_step.SHAPES}
    FILE.write_text(json.dumps({"jaxlib": jaxlib.__version__} | costs, indent=1) + "\n")
