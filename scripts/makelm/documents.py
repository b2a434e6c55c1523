"""Document shards: compressed files of documents, one JSON line each. docs/formats.md is the specification."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Protocol, TypeVar

import zstandard

from makelm import open_files
from makelm.errors import UserError

LEVEL = 6  # of 22: 100 MB/s and within 8% of the slow levels on source text
FRAME = 1 << 22  # bytes of text that are compressed at a time
HELD = 1 << 28  # bytes of text that wait for that in all shards of a part together
CHUNK = 1 << 12  # bytes read at a time; of the most repetitive text that is 128 MB
PART = 1 << 20  # bytes of a line that are more than this come in parts
HEAD = re.compile(rb'\{"id":"(?:[^"\\]|\\.)*","text":"')
TAIL = b'"}'
# before these a line can be cut: they are in no escape of JSON's and within no character
BETWEEN = re.compile(rb"[ !#-.:-@G-Z\[\]^_`g-mo-qsv-~\xc2-\xf4]")
PARTS = ("train", "valid")
BATCH = 1 << 20  # characters that a process gets at a time


class Document(NamedTuple):
    """A text and its name, unique in its corpus."""

    id: str
    text: str


def hash_fraction(name: str) -> float:
    """Returns a number in [0, 1) that depends on a name alone: what is chosen by it stays so while a corpus grows."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64


def byte_length(text: str) -> int:
    """Returns the length of a text in UTF-8."""
    return len(text) if text.isascii() else len(text.encode())


def shard_name(part: str, shard: int) -> str:
    """Returns the file name of one shard of the part train or valid."""
    return f"{part}-{shard:05d}.jsonl.zst"


class Writer:
    """Writes documents to one shard. Equal documents give equal bytes.

    A compressor takes megabytes and an open file one of 1,024, so there is neither between two frames: a corpus can
    have thousands of shards.
    """

    def __init__(self, path: Path, frame: int = FRAME):
        """A frame ends with the document that brings it to so many bytes."""
        self.path, self.frame, self.held = path, frame, bytearray()
        path.write_bytes(b"")

    def write(self, document: Document) -> None:
        line = json.dumps(document._asdict(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        self.held += line.encode() + b"\n"
        if len(self.held) >= self.frame:
            self.flush()

    def flush(self) -> None:
        """Writes what is held as a frame."""
        # the checksum tells a reader of a flipped bit; the frame holds no time and no name
        frame = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True).compress(self.held)
        with self.path.open("ab") as file:
            file.write(frame)
        self.held = bytearray()

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        # an empty shard is an empty frame; what was broken off stays no shard
        if kind is None and (self.held or not self.path.stat().st_size):
            self.flush()


class TextPart(NamedTuple):
    """A part of a document's text; most documents are one."""

    text: str
    last: bool


def read(path: Path) -> Iterator[Document]:
    """Yields the documents of one shard. Raises UserError where the file is not whole."""
    pieces: list[bytes] = []
    for piece, last in pieces_of_lines(path):
        pieces.append(piece)
        if not last:
            continue
        try:
            fields = json.loads(b"".join(pieces))
            pieces = []
            yield Document(fields["id"], fields["text"])
        except (ValueError, KeyError, TypeError):
            raise damaged(path) from None


def read_parts(path: Path) -> Iterator[TextPart]:
    """Yields the texts of one shard, the long ones in parts of about PART bytes.

    So a text of any length takes no more memory than its parts. Raises UserError where the file is not whole.
    """
    held, begun = bytearray(), False
    for piece, last in pieces_of_lines(path):
        held += piece
        try:
            if last:
                yield TextPart(string(ended(held)) if begun else json.loads(held)["text"], True)
                held, begun = bytearray(), False
            elif len(held) > PART:
                if not begun:
                    del held[: HEAD.match(held).end()]
                    begun = True
                if cut := next(BETWEEN.finditer(held, len(held) // 2), None):
                    yield TextPart(string(held[: cut.start()]), False)
                    del held[: cut.start()]
        except (ValueError, KeyError, TypeError, AttributeError):  # of JSON; of what is no object; of no HEAD
            raise damaged(path) from None


def string(inner: bytes | bytearray) -> str:
    """Returns the text that JSON spells so between quotes. Raises ValueError where it is none."""
    return json.loads(b'"%s"' % inner)


def ended(held: bytes | bytearray) -> bytes | bytearray:
    """Returns the end of a document's text without that of its line. Raises ValueError where it has none."""
    if not held.endswith(TAIL):
        raise ValueError("no end")
    return held[: -len(TAIL)]


def pieces_of_lines(path: Path) -> Iterator[tuple[bytes, bool]]:
    """Yields the pieces of the lines of a file of zstd frames, and whether one ends its line.

    A frame must end where the file ends, and a line where that frame does.
    """
    whole = True
    for text in decompressed(path):
        *ends, rest = text.split(b"\n")
        for end in ends:
            yield from slices(end, True)
            whole = True
        if rest:
            yield from slices(rest, False)
            whole = False
    if not whole:
        raise damaged(path)


def decompressed(path: Path) -> Iterator[bytes]:
    """Yields the text of a file of one zstd frame or more, piece by piece."""
    decompressor = zstandard.ZstdDecompressor()
    frame = decompressor.decompressobj()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            while chunk:
                if frame.eof:
                    frame = decompressor.decompressobj()
                try:
                    yield frame.decompress(chunk)
                except zstandard.ZstdError:
                    raise damaged(path) from None
                chunk = frame.unused_data if frame.eof else b""
    if not frame.eof:
        raise damaged(path)


def slices(piece: bytes, last: bool) -> Iterator[tuple[bytes, bool]]:
    """Yields a piece of a line in slices of at most PART bytes; `last` says whether it ends the line."""
    for start in range(0, max(len(piece), 1), PART):
        yield piece[start : start + PART], last and start + PART >= len(piece)


def damaged(path: Path) -> UserError:
    """Returns the error for a shard that cannot be read to its end."""
    return UserError(f"{path} is damaged or no document shard; remove it and run download_corpus again")


def read_in_order(folder: Path, part: str, num_shards: int) -> Iterator[Document]:
    """Yields a part's documents in the order of the corpus: document i stands in shard i % num_shards."""
    open_files.allow()
    shards = [read(folder / shard_name(part, shard)) for shard in range(num_shards)]
    while True:
        for shard in shards:
            document = next(shard, None)
            if document is None:  # the shards before this one were the only ones with one more
                return
            yield document


class HasText(Protocol):
    """A document, or a piece of one."""

    @property
    def text(self) -> str: ...


T = TypeVar("T", bound=HasText)


def batches(texts: Iterable[T], characters: int) -> Iterator[list[T]]:
    """Yields what has a text in lists of about so many characters."""
    batch, length = [], 0
    for one in texts:
        batch.append(one)
        length += len(one.text)
        if length >= characters:
            yield batch
            batch, length = [], 0
    if batch:
        yield batch


class PartWriter:
    """Deals the documents of one part out to its shards in turn, and counts."""

    def __init__(self, folder: Path, part: str, num_shards: int):
        frame = min(FRAME, HELD // num_shards)
        self.writers = [Writer(folder / shard_name(part, shard), frame) for shard in range(num_shards)]
        self.documents, self.bytes = 0, 0

    def write(self, document: Document) -> None:
        self.writers[self.documents % len(self.writers)].write(document)
        self.documents += 1
        self.bytes += byte_length(document.text)

    def __enter__(self) -> "PartWriter":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for writer in self.writers:
            writer.__exit__(kind, error, trace)

    def facts(self) -> dict[str, int]:
        """Returns the counts, as a manifest holds them."""
        return {"documents": self.documents, "bytes": self.bytes}
