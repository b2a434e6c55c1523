r"""tiktoken's encodings without the lookahead in their patterns, which takes as long as all else that tiktoken does.

That is \s+(?!\S): of several spaces before a word the last one belongs to the word. A pattern that looks nowhere is
matched by an automaton (Rust's regex) and not by trying. So a mark is put before each such last space first, which
the pattern takes for a piece and the vocabulary for a token, and its id is taken out of those that come back.
"""

import re
from collections.abc import Sequence

import numpy as np
import tiktoken

from makelm import encodings
from makelm.sampled import Sample
from makelm.tokenizer import Tokenizer
from makelm.tokenizer_ranks import Ranks

MARK = "\ufdd0"  # no character, and never to be one; a text that has it all the same is encoded as it always was
# Unicode's, as in tiktoken; Python's \s has more
SPACE = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
IN_LINE = SPACE.replace(r"\t-\r", r"\t\v\f")
# the encodings, what their pattern ends in, that without its lookahead, and which spaces it is about
ENDINGS = {
    ("gpt2", "p50k_base"): (r"|\s++$|\s+(?!\S)|\s", r"|\s+", SPACE),
    # here the spaces up to the last end of a line are a piece of their own
    ("cl100k_base",): (r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s", r"|\s+$|\s*[\r\n]|\s+", IN_LINE),
    ("o200k_base",): (r"|\s*[\r\n]+|\s+(?!\S)|\s+", r"|\s*[\r\n]+|\s+", IN_LINE),
}


class MarkedEncoder:
    """Encodes as a tokenizer does whose pattern looks ahead, by one that does not, and holds a sample against it."""

    def __init__(self, tokenizer: Ranks, pattern: str, spaces: str):
        self.tokenizer, self.sample = tokenizer, Sample()
        self.places = re.compile(f"([{spaces}])(?=[{spaces}][^{SPACE}])")
        self.mark = tokenizer.vocab_size  # the first id that there is not
        self.encoding = tiktoken.Encoding(
            "marked",
            pat_str=pattern,
            mergeable_ranks=tokenizer.ranks | {MARK.encode(): self.mark},
            # without one, tiktoken would look for the empty text, which is everywhere
            special_tokens={"<|none|>": self.mark + 1},
        )

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Returns the ids of each text as an array of uint32."""
        found = [self.encode_text(text) for text in texts]
        differs = self.sample.first_that_differs(self.tokenizer, texts, found)
        assert differs is None, differs
        return found

    def encode_text(self, text: str) -> np.ndarray:
        if MARK in text:
            return self.tokenizer.encode_text(text)
        ids = self.encoding.encode_to_numpy(self.places.sub(rf"\1{MARK}", text), disallowed_special=())
        return ids[ids != self.mark]


def encoder(tokenizer: Tokenizer) -> MarkedEncoder | None:
    """Returns an encoder of a tokenizer with one of tiktoken's patterns; None for another, which is used as it is."""
    for names, (ending, without, spaces) in ENDINGS.items():
        published = {encodings.definition(name, lambda *_: {})["pat_str"] for name in names}
        if isinstance(tokenizer, Ranks) and tokenizer.pattern in published:
            beginning = tokenizer.pattern.removesuffix(ending)
            assert beginning != tokenizer.pattern, f"tiktoken has another pattern for {names[0]} now"
            return MarkedEncoder(tokenizer, f"{plain(beginning)}{without}|{MARK}", spaces)
    return None


def plain(beginning: str) -> str:
    """Returns the beginning of a published pattern without its possessive repeats, which leaves marks alone.

    They repeat what nothing after them could begin with, so that they give nothing back anyway.
    """
    greedy = re.sub(r"(?<=[+*?])\+|(?<=\d\})\+", "", beginning)
    return re.sub(r"\[\^.*?\]", lambda found: f"{found[0][:-1]}{MARK}]", greedy)
