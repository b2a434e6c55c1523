"""makelm writes: what sample_model does, so many texts in as many slots."""

import sys
from pathlib import Path

from turn import serve, task

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "benchmarks")]

import jax  # noqa: E402
import own_step  # noqa: E402

from makelm import model  # noqa: E402
from makelm.generate import READERS, Engine, Options, generate  # noqa: E402

given = task()
shape, rows = own_step.settings(given).model, given["rows"]
parameters = jax.jit(lambda: model.initialize(shape, given["vocabulary"], 0))()
skeleton = model.Skeleton(shape, given["vocabulary"])
engine = Engine(skeleton, parameters, [b"a"] * given["vocabulary"], None, rows, readers=min(rows, READERS))
drawn = {"temperature": 0.8, "top_k": given["top_k"]}


def work(times: int) -> None:
    for _ in range(times):
        options = [Options(max_new_tokens=given["new"], seed=row, **drawn) for row in range(rows)]
        generate(engine, [[1] * given["prompt"]] * rows, options)


work(1)
serve({"versions": {"jax": jax.__version__}}, work)
