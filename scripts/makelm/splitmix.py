"""Hashes of numbers, by the arithmetic of SplitMix64 (Steele et al. 2014)."""

import numpy as np

MULTIPLIERS = np.array([0xBF58476D1CE4E5B9, 0x94D049BB133111EB], np.uint64)
GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # what its state grows by: 2^64 over the golden ratio


def mixed(numbers: np.ndarray) -> np.ndarray:
    """Returns a hash of each number, all uint64: one to one, and spread over all of the range."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * MULTIPLIERS[0]
    numbers = (numbers ^ (numbers >> np.uint64(27))) * MULTIPLIERS[1]
    return numbers ^ (numbers >> np.uint64(31))
