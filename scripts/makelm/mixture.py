"""Which source each sequence of a mixture comes from: of any number of first sequences, each source has its share.

B places asked for
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import lcm, sqrt

import numpy as np

from makelm.config_mixture import PARTS


class Mixture:
    """An endless order of sources: of its first n sequences a source of weight w has w n, give or take less than one.

    Weights are whole parts of a period, and the order repeats. Within it the j-th sequence of a source (from 0) may not
    come before place floor(j / w) nor after place ceil((j + 1) / w) - 1, or it would be one off; of those that may
    come, the one that must come soonest does. That this always goes out even was shown by Tijdeman (1980).
    """

    def __init__(self, weights: Sequence[float]):
        """The weights come to 1, as config.Run makes them."""
        shares = [Fraction(weight).limit_denominator(PARTS) for weight in weights]
        assert sum(shares) == 1
        self.period = lcm(*(share.denominator for share in shares))
        self.parts = np.array([int(share * self.period) for share in shares])
        self.sources, self.before = schedule(self.parts.tolist(), self.period)

    def __call__(self, places_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns sources_B and, at each place, how many sequences of its source came before."""
        periods_B, places_B = np.divmod(places_B, self.period)
        sources_B = self.sources[places_B]
        return sources_B, periods_B * self.parts[sources_B] + self.before[places_B]

    def counts(self, sequences: int) -> list[int]:
        """Returns how many of the first sequences are each source's."""
        periods, rest = divmod(sequences, self.period)
        within = np.bincount(self.sources[:rest], minlength=len(self.parts))
        return (periods * self.parts + within).tolist()


def schedule(parts: list[int], period: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the source at each place of a period, and how many of the same came before in it."""
    sources, before = np.empty(period, np.int32), np.empty(period, np.int64)
    done = [0] * len(parts)
    for place in range(period):
        # (the place after the last that will do, source) of those that may come now
        due = [
            (-(-(done[source] + 1) * period // share), source)
            for source, share in enumerate(parts)
            if done[source] * period // share <= place
        ]
        source = min(due)[1]
        sources[place], before[place] = source, done[source]
        done[source] += 1
    return sources, before


def combined(losses: Mapping[str, Mapping[str, float]], weights: Mapping[str, float]) -> dict[str, float]:
    """Returns a mixture's validation_loss and its standard error: source by source, as the tokens are mixed."""
    mean = sum(weights[name] * own["validation_loss"] for name, own in losses.items())
    squares = sum((weights[name] * own["validation_loss_sem"]) ** 2 for name, own in losses.items())
    return {"validation_loss": mean, "validation_loss_sem": sqrt(squares)}
