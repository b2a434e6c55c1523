"""Ids that were made by other means than a tokenizer's own are held against those, for one text in so many."""

import itertools
from collections.abc import Sequence

import numpy as np

from makelm.errors import UserError
from makelm.tokenizer import Tokenizer

EVERY = 100  # texts, of which one is encoded by the tokenizer as well; always the first


class Sample:
    """Counts texts, in whichever thread they are encoded."""

    def __init__(self) -> None:
        self.count = itertools.count()

    def first_that_differs(self, tokenizer: Tokenizer, texts: Sequence[str], found: Sequence[np.ndarray]) -> str | None:
        """Returns the first text of the sample whose ids are not those of the tokenizer, if there is one."""
        for text, ids in zip(texts, found, strict=True):
            if next(self.count) % EVERY == 0 and differ(tokenizer, text, ids):
                return text
        return None


def differ(tokenizer: Tokenizer, text: str, ids: np.ndarray) -> bool:
    """Returns whether a text's ids are others than the tokenizer's own."""
    try:
        return not np.array_equal(ids, tokenizer.encode_batch([text])[0])
    except UserError:
        return False  # it cannot cut such a text; which texts are sampled must not decide whether there is an error
