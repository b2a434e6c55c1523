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

    @property
    def broken(self) -> bool:
        """Returns whether the newest token ends within a character."""
        return bool(self.decoder.getstate()[0])

    def held(self) -> int:
        """Returns how many characters at the end are the beginning of a stop string."""
        longest = max(map(len, self.stop), default=1) - 1
        for size in range(min(longest, len(self.text)), 0, -1):
            if any(stop.startswith(self.text[-size:]) for stop in self.stop if len(stop) > size):
                return size
        return 0


class TokenTexts:
    """The text of each token of one text, as both come: together the whole text.

    A character of several tokens is the last one's.
    """

    def __init__(self, tokens: Sequence[bytes]):
        """`tokens` are the bytes of each id."""
        self.stream = TextStream(tokens, ())
        self.waiting: list[str] = []  # of tokens whose text is not sure yet
        self.room = 0  # characters that are sure and were not given before

    def take(self, ids: Sequence[int], text: str, last: bool = False) -> list[str]:
        """Takes in what came, ids and text that is sure. Returns the texts of the next tokens: those that are whole.

        `last`: nothing follows, so those of all tokens, without what a stop string has cut off the last one.
        """
        self.room += len(text)
        for token in ids:
            self.stream.feed(token)
            self.waiting.append(self.stream.take()[0])
        if last and self.waiting:
            self.waiting[-1] += self.stream.take(last=True)[0]
            self.waiting[-1] = self.waiting[-1][: self.room - sum(map(len, self.waiting[:-1]))]
        given, broken = [], not last and self.stream.broken
        # half a character may still be the newest token's
        while len(self.waiting) > broken and len(self.waiting[0]) <= self.room:
            given.append(self.waiting.pop(0))
            self.room -= len(given[-1])
        return given
