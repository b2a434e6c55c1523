"""Documents -> token ids, on several cores and in order, with no more than a few spans of text in memory."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from makelm.documents import TextPart, batches, byte_length
from makelm.shards import token_type
from makelm.tokenizer import Tokenizer

TASK = 1 << 18  # characters that a thread encodes at a time: enough for its overhead not to matter
AHEAD = 2  # tasks for each core that are read and not yet written

EncodeBatch = Callable[[Sequence[str]], list[np.ndarray]]


class Span(NamedTuple):
    """A document, or what stands in it between two places where it can be cut."""

    text: str
    following: str  # the one character after it that the tokenizer has to see, if there is one
    first: bool
    last: bool


class Encoded(NamedTuple):
    """Some spans as ids, with what stands before and after a document."""

    ids: np.ndarray
    documents: int  # that end here
    bytes: int  # of text
    lost: int  # of these, what decoding does not give back, where that was asked


def encode(
    tokenizer: Tokenizer, parts: Iterable[TextPart], cores: int, encode_batch: EncodeBatch, compare: bool = False
) -> Iterator[Encoded]:
    """Yields the ids of documents that come in parts; `encode_batch` is the tokenizer's own or makes the same ids.

    `compare` says whether each text is compared with what its ids decode to.
    """
    waiting: deque[Future[Encoded]] = deque()
    with ThreadPoolExecutor(cores) as pool:  # the tokenizers work without the interpreter's lock
        try:
            for task in batches(spans(parts, tokenizer), TASK):
                waiting.append(pool.submit(encode_task, tokenizer, task, encode_batch, compare))
                if len(waiting) > AHEAD * cores:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def spans(parts: Iterable[TextPart], tokenizer: Tokenizer) -> Iterator[Span]:
    """Yields documents, the long ones cut where their ids stay the same."""
    # held: parts of a document that are looked through, so many characters in all; rest: what follows them
    held, length, rest, first, border = [], 0, "", True, tokenizer.border
    for part in parts:
        text = rest + part.text
        middle = max(0, (length + len(text)) // 2 - length)  # of all that is here, in text
        if part.last:
            yield Span("".join([*held, text]), "", first, True)
            held, length, rest, first = [], 0, "", True
        elif border is not None and (found := border.search(text, middle)):
            yield Span("".join([*held, text[: found.end()]]), text[found.end()], first, False)
            held, length, rest, first = [], 0, text[found.end() :], False
        else:
            held.append(text[:-1])
            length, rest = length + len(held[-1]), text[-1:]  # a border may stand after it


def encode_task(tokenizer: Tokenizer, task: list[Span], encode_batch: EncodeBatch, compare: bool) -> Encoded:
    """Returns the ids of some spans in the type of a shard."""
    none = np.empty(0, np.uint32)
    before, after = (
        none if end is None else np.array([end], np.uint32) for end in (tokenizer.begin_of_text, tokenizer.end_of_text)
    )
    found, lost = [none], 0
    for span, ids in zip(task, encode_batch([span.text + span.following for span in task]), strict=True):
        if compare:
            lost += lost_bytes(span.text + span.following, tokenizer.decode(ids.tolist()))
        if span.following:
            ids = ids[: len(ids) - len(encode_batch([span.following])[0])]
        found += [before] * span.first + [ids] + [after] * span.last
    return Encoded(
        np.concatenate(found).astype(token_type(tokenizer.vocab_size)),
        sum(span.last for span in task),
        sum(byte_length(span.text) for span in task),
        lost,
    )


def lost_bytes(text: str, decoded: str) -> int:
    """Returns how many bytes of a text another one does not have, wherever they stand."""
    if text == decoded:
        return 0
    there, back = (np.bincount(np.frombuffer(each.encode(), np.uint8), minlength=256) for each in (text, decoded))
    return int((there - back).clip(0).sum())
