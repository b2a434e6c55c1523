"""The text of tokens as they come: whole characters only, and nothing that may be the beginning of a stop string."""

import codecs
from bisect import bisect_left
from collections.abc import Sequence


class TextStream:
    """One text that grows by tokens, until a stop string is complete; the text ends before it."""

    def __init__(self, tokens: Sequence[bytes], stop: Sequence[str]):
        """`tokens` are the bytes of each id."""
        self.tokens, self.stop = tokens, stop
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.text = ""
        self.begins: list[int] = []  # where in the text each token's first whole character stands
        self.given_text = self.given_tokens = 0
        self.stopped = False

    def feed(self, token: int) -> bool:
        """Takes a token's text in. Returns whether that completes a stop string."""
        assert not self.stopped, "the text has ended"
        self.begins.append(len(self.text))
        self.grow(self.decoder.decode(self.tokens[token]))
        return self.stopped

    def grow(self, more: str) -> None:
        """Adds to the text, and cuts it where a stop string is complete: the first to be, of several the longest."""
        before, self.text = len(self.text), self.text + more
        ends = []
        for stop in self.stop:
            place = self.text.find(stop, max(0, before - len(stop) + 1))
            if place >= 0:
                ends.append((place + len(stop), place))
        if ends:
            self.text, self.stopped = self.text[: min(ends)[1]], True

    def take(self, last: bool = False) -> tuple[str, int]:
        """Returns the text that is sure and was not given before, and how many more tokens it belongs to.

        `last`: no token follows, so all that there is; half a character becomes U+FFFD.
        """
        if last and not self.stopped:
            self.grow(self.decoder.decode(b"", final=True))
        ended = last or self.stopped
        sure = len(self.text) - (0 if ended else self.held())
        whole = len(self.begins) if ended and not self.stopped else bisect_left(self.begins, sure)
        text, tokens = self.text[self.given_text : sure], whole - self.given_tokens
        self.given_text, self.given_tokens = sure, whole
        return text, tokens

    def held(self) -> int:
        """Returns how many characters at the end are the beginning of a stop string."""
        longest = max(map(len, self.stop), default=1) - 1
        for size in range(min(longest, len(self.text)), 0, -1):
            if any(stop.startswith(self.text[-size:]) for stop in self.stop if len(stop) > size):
                return size
        return 0
