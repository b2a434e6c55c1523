"""What a compressor makes of the validation documents: the figures a model has to beat."""

import itertools
import lzma
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from makelm.documents import Document

PRESET = 9 | lzma.PRESET_EXTREME  # the command `xz -9e`
DICTIONARY = 64 << 20  # bytes that preset 9 looks back
PIECE = 1 << 20  # bytes
SMALL = 24 << 20  # bytes of text that may be compressed twice at the same time


class Tail:
    """The last bytes of a stream of texts, as many as xz can look back at."""

    def __init__(self) -> None:
        # in pieces of one size: thousands of small ones would leave holes in memory when they go
        self.pieces: deque[bytes] = deque()
        self.last = bytearray()

    def add(self, text: str) -> None:
        self.last += text.encode()
        if len(self.last) >= PIECE:
            self.pieces.append(bytes(self.last))
            self.last = bytearray()
            while sum(map(len, self.pieces)) - len(self.pieces[0]) >= DICTIONARY:
                self.pieces.popleft()

    def texts(self) -> list[bytes]:
        """Returns these bytes, in pieces."""
        found, left = [], DICTIONARY
        for piece in (bytes(self.last), *reversed(self.pieces)):
            if left:
                found.append(piece[-left:])
                left -= len(found[-1])
        return found[::-1]


def beginning(documents: Iterable[Document]) -> list[Document]:
    """Returns the first documents, of about as many bytes as xz can look back at, the last one maybe cut."""
    found, left = [], DICTIONARY
    for document in documents:
        text = document.text.encode()[:left].decode(errors="ignore")
        found.append(Document(document.id, text))
        left -= len(text.encode())
        if len(text) < len(document.text) or not left:
            break
    return found


def xz_baselines(train_tail: list[bytes], valid: list[Document], cores: int) -> dict[str, float]:
    """Returns bits per byte of the validation text for xz alone, and for xz that has read the training text.

    Alone it gets the documents in the order of their names; after the training text, in that of the corpus.
    """
    texts = [itertools.chain(train_tail, encoded(valid)), train_tail, encoded(sorted(valid))]
    length = sum(map(len, encoded(valid)))
    # a compressor takes ten times the text in memory, up to 0.7 GB
    small = sum(map(len, train_tail)) + length < SMALL
    pool = ThreadPoolExecutor(min(2, cores) if small else 1)  # lzma works without the interpreter's lock
    try:
        both, train, alone = pool.map(xz_bytes, texts)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # a stage that is told to stop does not wait for them
    return {
        "xz_bits_per_byte": alone * 8 / length,
        "xz_after_train_bits_per_byte": (both - train) * 8 / length,
    }


def encoded(documents: list[Document]) -> Iterator[bytes]:
    return (document.text.encode() for document in documents)


def xz_bytes(pieces: Iterable[bytes]) -> int:
    """Returns the size of the .xz file that the command would write of the pieces together."""
    compressor = lzma.LZMACompressor(lzma.FORMAT_XZ, lzma.CHECK_CRC64, PRESET)
    return sum(len(compressor.compress(piece)) for piece in pieces) + len(compressor.flush())
