"""Document shards: compressed files of documents, one JSON line each. docs/formats.md is the specification."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import zstandard

from makelm.errors import UserError

LEVEL = 6  # of 22: 100 MB/s and within 8% of the slow levels on source text
CHUNK = 1 << 20  # bytes read at a time
PARTS = ("train", "valid")


class Document(NamedTuple):
    """A text and its name, unique in its corpus."""

    id: str
    text: str


def shard_name(part: str, shard: int) -> str:
    """Returns the file name of one shard of the part train or valid."""
    return f"{part}-{shard:05d}.jsonl.zst"


class Writer:
    """Writes documents to one shard. Equal documents give equal bytes."""

    def __init__(self, path: Path):
        self.file = path.open("wb")
        # the checksum tells a reader of a flipped bit; the frame holds no time and no name
        compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True)
        self.stream = compressor.stream_writer(self.file)

    def write(self, document: Document) -> None:
        line = json.dumps(document._asdict(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        self.stream.write(f"{line}\n".encode())

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.stream.close()  # ends the frame; without it the file counts as damaged
        self.file.close()


def read(path: Path) -> Iterator[Document]:
    """Yields the documents of one shard. Raises UserError where the file is not whole."""
    for line in lines(path):
        try:
            fields = json.loads(line)
            yield Document(fields["id"], fields["text"])
        except (ValueError, KeyError, TypeError):
            raise damaged(path) from None


def lines(path: Path) -> Iterator[bytes]:
    """Yields the lines of a file of one zstd frame, which must end where the file ends."""
    frame = zstandard.ZstdDecompressor().decompressobj()
    pieces: list[bytes] = []  # of a line that has not ended yet; it may be far longer than a chunk
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            try:
                first, *others = frame.decompress(chunk).split(b"\n")
            except zstandard.ZstdError:
                raise damaged(path) from None
            pieces.append(first)
            for start in others:
                yield b"".join(pieces)
                pieces = [start]
    if not frame.eof or frame.unused_data or any(pieces):
        raise damaged(path)


def damaged(path: Path) -> UserError:
    """Returns the error for a shard that cannot be read to its end."""
    return UserError(f"{path} is damaged or no document shard; remove it and run download_corpus again")


def read_in_order(folder: Path, part: str, num_shards: int) -> Iterator[Document]:
    """Yields a part's documents in the order of the corpus: document i stands in shard i % num_shards."""
    shards = [read(folder / shard_name(part, shard)) for shard in range(num_shards)]
    while True:
        for shard in shards:
            document = next(shard, None)
            if document is None:  # the shards before this one were the only ones with one more
                return
            yield document


class PartWriter:
    """Deals the documents of one part out to its shards in turn, and counts."""

    def __init__(self, folder: Path, part: str, num_shards: int):
        self.writers = [Writer(folder / shard_name(part, shard)) for shard in range(num_shards)]
        self.documents, self.bytes = 0, 0

    def write(self, document: Document) -> None:
        self.writers[self.documents % len(self.writers)].write(document)
        self.documents += 1
        self.bytes += len(document.text.encode())

    def __enter__(self) -> "PartWriter":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for writer in self.writers:
            writer.__exit__(kind, error, trace)

    def facts(self) -> dict[str, int]:
        """Returns the counts, as a manifest holds them."""
        return {"documents": self.documents, "bytes": self.bytes}
