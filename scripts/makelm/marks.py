r"""tiktoken's encodings without the lookahead in their patterns, which takes as long as all else that tiktoken does.

That is \s+(?!\S): of several spaces before a word the last one belongs to the word. A pattern that looks nowhere is
matched by an automaton (Rust's regex) and not by trying. So a mark, the character 0, is put before each such last
space first, which the pattern takes for a piece, and its id is taken out of those that come back.
"""

import re
from collections.abc import Sequence

import numpy as np
import tiktoken

from makelm import encodings
from makelm.sampled import Sample
from makelm.tokenizer import Tokenizer
from makelm.tokenizer_ranks import Ranks

MARK = "\0"  # hardly a text has it; one that does is encoded as it always was
# Unicode's, as in tiktoken; Python's \s has more
WIDE = r"\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
SPACE, IN_LINE = rf"\t-\r {WIDE}", rf"\t\v\f {WIDE}"
HAS_WIDE = re.compile(f"[{WIDE}]")
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
        self.spaces, self.space = of_bytes(spaces), of_bytes(SPACE)
        self.mark = tokenizer.ranks[MARK.encode()]
        # without a special token, tiktoken would look for the empty text, which is everywhere
        special = {"<|none|>": tokenizer.vocab_size}
        self.encoding = tiktoken.Encoding(
            "marked", pat_str=pattern, mergeable_ranks=tokenizer.ranks, special_tokens=special
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
        ids = self.encoding.encode_to_numpy(self.marked(text), disallowed_special=())
        return ids[ids != self.mark]

    def marked(self, text: str) -> str:
        """Returns a text with marks, by bytes where all of its spaces are ASCII: a sixth of the time."""
        if not text.isascii() and HAS_WIDE.search(text):
            return self.places.sub(rf"\1{MARK}", text)
        raw = np.frombuffer(text.encode(), np.uint8)
        last = self.spaces[raw]
        places = np.flatnonzero(last[:-2] & last[1:-1] & ~self.space[raw[2:]]) + 1
        return np.insert(raw, places, ord(MARK)).tobytes().decode()


def of_bytes(spaces: str) -> np.ndarray:
    """Returns for each of the 256 bytes whether it is one of these characters, by itself."""
    return np.array([code < 0x80 and bool(re.match(f"[{spaces}]", chr(code))) for code in range(256)])


def encoder(tokenizer: Tokenizer) -> MarkedEncoder | None:
    """Returns an encoder of a tokenizer with one of tiktoken's patterns; None for another, which is used as it is."""
    if not isinstance(tokenizer, Ranks):
        return None
    for names, (ending, without, spaces) in ENDINGS.items():
        published = {encodings.definition(name, lambda *_: {})["pat_str"] for name in names}
        if tokenizer.pattern in published and tokenizer.pattern.endswith(ending):
            beginning = plain(tokenizer.pattern.removesuffix(ending))
            return MarkedEncoder(tokenizer, rf"{beginning}{without}|\x00", spaces)
    return None


def plain(beginning: str) -> str:
    """Returns the beginning of a published pattern without its possessive repeats, which leaves marks alone.

    They repeat what nothing after them could begin with, so that they give nothing back anyway.
    """
    greedy = re.sub(r"(?<=[+*?])\+|(?<=\d\})\+", "", beginning)
    return re.sub(r"\[\^.*?\]", lambda found: rf"{found[0][:-1]}\x00]", greedy)
