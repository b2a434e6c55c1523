"""The keys of what reads text: a corpus, or several with weights."""

from fractions import Fraction
from math import lcm
from typing import Annotated, Any

from pydantic import PlainValidator
from pydantic_core import PydanticCustomError

from makelm.config_types import Section, number

PARTS = 100_000  # that the weights of a mixture may be whole numbers of


def corpus_weights(value: Any) -> str | dict[str, float]:
    """Reads a corpus's name, or names with weights, which are made to come to 1; one alone is that name."""
    if isinstance(value, str):
        return value
    if not isinstance(value, dict) or not value:
        raise PydanticCustomError("corpus", "input should be a corpus's name, or names with weights")
    ratios = {str(name): Fraction(str(number(weight))) for name, weight in value.items() if is_weight(name, weight)}
    exact = {name: ratio / sum(ratios.values()) for name, ratio in ratios.items()}
    # what came to 1 before was rounded to a float
    shares = {name: share.limit_denominator(PARTS) for name, share in exact.items()}
    rounded = any(abs(shares[name] - share) > 1e-12 for name, share in exact.items())
    if rounded or sum(shares.values()) != 1 or lcm(*(share.denominator for share in shares.values())) > PARTS:
        raise PydanticCustomError(
            "weights", "the weights are whole parts of no number up to {n}; round them", {"n": f"{PARTS:,}"}
        )
    return {name: float(shares[name]) for name in sorted(shares)} if len(shares) > 1 else next(iter(shares))


def is_weight(name: Any, weight: Any) -> bool:
    """Returns true, or raises where it is none."""
    weight = number(weight)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < float("inf"):
        raise PydanticCustomError(
            "weight",
            "the weight of {n} should be a number greater than 0, got {w}",
            {"n": str(name), "w": repr(weight)},
        )
    return True


class Mixed(Section):
    """What reads the text of a run."""

    corpus: Annotated[str | dict[str, float], PlainValidator(corpus_weights)]

    @property
    def corpora(self) -> dict[str, float]:
        """Returns each corpus's share of the tokens that are trained on; together 1."""
        return {self.corpus: 1.0} if isinstance(self.corpus, str) else self.corpus
