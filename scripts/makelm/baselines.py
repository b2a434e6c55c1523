"""What a compressor makes of the validation documents: the figures a model has to beat."""

import lzma
from collections import deque
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from makelm.documents import Document

PRESET = 9 | lzma.PRESET_EXTREME  # the command `xz -9e`
DICTIONARY = 64 << 20  # bytes that preset 9 looks back


class Tail:
    """The last bytes of a stream of texts, as many as xz can look back at."""

    def __init__(self) -> None:
        self.pieces: deque[bytes] = deque()
        self.bytes = 0

    def add(self, text: str) -> None:
        self.pieces.append(text.encode())
        self.bytes += len(self.pieces[-1])
        while self.bytes - len(self.pieces[0]) >= DICTIONARY:
            self.bytes -= len(self.pieces.popleft())

    def join(self) -> bytes:
        return b"".join(self.pieces)[-DICTIONARY:]


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


def xz_baselines(train_tail: bytes, valid: list[Document], cores: int) -> dict[str, float]:
    """Returns bits per byte of the validation text for xz alone, and for xz that has read the training text.

    Alone it gets the documents in the order of their names; after the training text, in that of the corpus.
    """
    texts = [train_tail + join(valid), train_tail, join(sorted(valid))]
    pool = ThreadPoolExecutor(min(2, cores))  # lzma works without the interpreter's lock
    try:
        both, train, alone = pool.map(xz_bytes, texts)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # a stage that is told to stop does not wait for them
    length = len(texts[0]) - len(train_tail)
    return {
        "xz_bits_per_byte": alone * 8 / length,
        "xz_after_train_bits_per_byte": (both - train) * 8 / length,
    }


def join(documents: list[Document]) -> bytes:
    return "".join(document.text for document in documents).encode()


def xz_bytes(text: bytes) -> int:
    """Returns the size of the .xz file that the command would write."""
    return len(lzma.compress(text, format=lzma.FORMAT_XZ, check=lzma.CHECK_CRC64, preset=PRESET))
