"""makelm's generator by itself: so many texts, so many of them at a time, in slots as a server has them."""

import sys
from pathlib import Path

from turn import serve, task

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "scripts")]

import jax  # noqa: E402

from makelm import interactive, serving_engine  # noqa: E402
from makelm.generate import Engine, Options  # noqa: E402
from makelm.model import Skeleton  # noqa: E402

given = task()
trained, encoding = interactive.open_run(Path(given["run"]), None)
skeleton = Skeleton(trained.model, trained.vocab_size, trained.end_of_text)
kind = serving_engine.SteadyEngine if given["steady"] else Engine
engine = kind(
    skeleton,
    trained.parameters,
    encoding.tokens,
    encoding.end_of_text,
    slots=given["slots"],
    chunk=serving_engine.CHUNK,
)


def work(texts: int) -> None:
    """Writes the texts that the server is asked for."""
    waiting, live = list(reversed(range(texts))), 0
    while waiting or live:
        while waiting and live < given["clients"] and engine.free:
            options = Options(given["new"], given["temperature"], seed=waiting.pop())
            engine.admit(given["prompt"], options)
            live += 1
        live -= sum(piece.finish_reason is not None for piece in engine.step())


work(given["clients"])
serve({"versions": {"jax": jax.__version__}}, work)
