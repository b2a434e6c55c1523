"""What files hold: their documents one after the other, out of whatever they are wrapped in.

Nothing is read whole but what is one document, and a Parquet file inside something compressed.
"""

import gzip
import io
import json
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from makelm import files
from makelm.config_corpus import TextKey
from makelm.documents import Document
from makelm.errors import UserError, first_line

Stream = io.BufferedIOBase  # open, of bytes
CHUNK = 1 << 20  # bytes read at a time
BYTE_ORDER_MARK = "\ufeff"  # some editors begin a file with it
ROWS = 256  # of Parquet that are in memory as text at a time
HARMLESS = "make the archive again with names below its own top"


def documents(path: Path, name: str, keys: TextKey, where: str) -> Iterator[Document]:
    """Yields the documents of one file. `name` opens their ids and says what kind it is; `where` names it in errors."""
    with path.open("rb") as file:
        yield from unwrapped(file, name, keys, where, seekable=True)


def unwrapped(raw: io.BufferedReader, name: str, keys: TextKey, where: str, seekable: bool) -> Iterator[Document]:
    """Yields the documents of an open file."""
    form, compression = files.kind(name)
    with explained(where):
        stream = decompressed(raw, compression, where)
        if form == ".jsonl":
            yield from lines(stream, name, keys, where)
        elif form == ".parquet":
            yield from rows(stream if seekable and not compression else io.BytesIO(stream.read()), name, keys, where)
        elif form == ".tar":
            yield from members(stream, name, keys, where, seekable and not compression)
        else:
            yield from texts(stream, name, keys, where)


def decompressed(raw: io.BufferedReader, compression: str, where: str) -> Stream:
    """Returns the content of an open file as a stream. Raises UserError where there is nothing to decompress."""
    if not compression:
        return raw
    if not raw.peek(1):  # a file that was cut off at once; not all decompressors mind
        raise UserError(f"{where} is empty, which no {compression} file is")
    if compression == ".gz":
        stream = gzip.GzipFile(fileobj=raw)
    elif compression == ".xz":
        stream = lzma.LZMAFile(raw)
    else:
        import pyarrow  # a fifth of a second; zstandard's own reader does not notice where a file is cut off

        stream = pyarrow.CompressedInputStream(raw, "zstd")
    return io.BufferedReader(stream, CHUNK)


@contextmanager
def explained(where: str) -> Iterator[None]:
    """Turns what is raised over a damaged file into one line."""
    try:
        yield
    except (EOFError, zlib.error, lzma.LZMAError, tarfile.TarError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the disk, not of the content
            raise
        raise UserError(f"{where} is damaged, or not what its name says: {first_line(error)}") from None


# ---- texts


def texts(stream: Stream, name: str, keys: TextKey, where: str) -> Iterator[Document]:
    """Yields the document that a stream is, or those that `split_at` parts it into; the empty ones are none."""
    if keys.split_at is None:
        yield Document(name, utf8(stream.read(), where, 0))
        return
    for number, (offset, raw) in enumerate(parted(stream, keys.split_at.encode()), start=1):
        if (text := utf8(raw, where, offset)).strip():
            yield Document(f"{name}:{number}", text)


def parted(stream: Stream, mark: bytes) -> Iterator[tuple[int, bytes]]:
    """Yields what stands between the marks, with the place where it begins; one of these is in memory at a time."""
    held, offset, searched = bytearray(), 0, 0
    while chunk := stream.read(CHUNK):
        held += chunk
        while (end := held.find(mark, searched)) >= 0:
            yield offset, bytes(held[:end])
            del held[: end + len(mark)]
            offset, searched = offset + end + len(mark), 0
        searched = max(0, len(held) - len(mark) + 1)  # a mark may have begun
    yield offset, bytes(held)


def divided(document: Document, keys: TextKey) -> Iterator[Document]:
    """Yields the document of a row, or those that `split_at` parts its text into."""
    if keys.split_at is None:
        yield document
        return
    for number, text in enumerate(document.text.split(keys.split_at), start=1):
        if text.strip():
            yield Document(f"{document.id}:{number}", text)


# ---- lines of JSON


def lines(stream: Stream, name: str, keys: TextKey, where: str) -> Iterator[Document]:
    """Yields a document for each line that is not empty."""
    offset = 0
    for number, line in enumerate(stream, start=1):
        if text := utf8(line, where, offset).strip():
            row = Document(f"{name}:{number}", json_text(text, keys, f"{where}, line {number}"))
            yield from divided(row, keys)
        offset += len(line)


def utf8(raw: bytes, where: str, offset: int) -> str:
    """Returns bytes as text. Raises UserError with the place in the file, `offset` being where they start."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{where} is not UTF-8 at byte {offset + error.start}; convert it, e.g. with iconv") from None
    return text if offset else text.removeprefix(BYTE_ORDER_MARK)


def json_text(line: str, keys: TextKey, where: str) -> str:
    """Returns the text in one line of JSON."""
    try:
        row = json.loads(line)
    except ValueError:
        raise UserError(f"{where} is not JSON: {line[:60]!r}") from None
    if not isinstance(row, dict):
        raise UserError(f"{where} is no JSON object: {line[:60]!r}")
    return text_of(row, keys, where)


# ---- rows


def rows(source: Stream, name: str, keys: TextKey, where: str) -> Iterator[Document]:
    """Yields a document for each row of a Parquet file, of which only the columns of text are read."""
    import pyarrow
    from pyarrow import parquet

    try:
        # read in pieces as rows are asked for, not a row group at once
        opened = parquet.ParquetFile(source, pre_buffer=False, buffer_size=CHUNK)
        there = dict.fromkeys(opened.schema_arrow.names)
        require(there, keys, where)
        number = 0
        for batch in opened.iter_batches(ROWS, columns=keys.columns, use_threads=False):
            for row in batch.to_pylist():
                found = Document(f"{name}:{number}", text_of(row, keys, f"{where}, row {number}"))
                yield from divided(found, keys)
                number += 1
    except pyarrow.ArrowException as error:
        raise UserError(f"{where} is damaged, or not what its name says: {first_line(error)}") from None


def require(row: dict, keys: TextKey, where: str) -> None:
    """Raises UserError where a row lacks a column of text."""
    for key in keys.columns:
        if key not in row:
            raise UserError(f"text_key: {where} has no {key!r}; it has: {', '.join(map(str, row))}")


def text_of(row: dict, keys: TextKey, where: str) -> str:
    """Returns the text of one row. Raises UserError where there is none."""
    require(row, keys, where)
    return keys.separator.join(column_text(row[key], key, where) for key in keys.columns)


def column_text(text: object, key: str, where: str) -> str:
    """Returns what stands in a column. Raises UserError where that is no text."""
    if not isinstance(text, str):
        raise UserError(f"text_key: {where}: {key!r} is no text but {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:  # JSON can spell half of a surrogate pair
        raise UserError(f"{where}: character {error.start} of {key!r} is half of a surrogate pair") from None
    return text


# ---- archives


class Header(tarfile.TarInfo):
    """A member's header. Without this, an archive would seem to end where one is damaged or missing."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> "Header":
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # the mark at the end
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from None


def members(stream: Stream, name: str, keys: TextKey, where: str, seekable: bool) -> Iterator[Document]:
    """Yields the documents in an archive, member by member; nothing is extracted.

    Taken is what would be of a folder. Links, devices and archives in the archive are left out.
    """
    mode, seen = ("r:" if seekable else "r|"), set()
    archive = tarfile.open(
        fileobj=stream, mode=mode, tarinfo=Header, encoding="utf-8", **({} if seekable else {"bufsize": CHUNK})
    )
    while member := archive.next():
        inner = member_name(member.name, where)
        form = files.kind(inner.name).form
        if member.isreg() and form not in ("", ".tar") and not files.is_hidden(inner):
            if (place := hash(inner)) in seen:
                raise UserError(f"{where} has two members {str(inner)!r}; {HARMLESS}, each of them once")
            seen.add(place)
            text = archive.extractfile(member)
            yield from unwrapped(text, f"{name}/{inner}", keys, f"{where}, member {inner}", seekable)
        archive.members.clear()  # it would keep the headers of all
    while stream.read(CHUNK):  # a compressed one has its checksum at the end
        pass


def member_name(name: str, where: str) -> PurePosixPath:
    """Returns a member's name. Raises UserError where it leads out of the archive, or is no text."""
    files.check_name(name, where)
    found = PurePosixPath(name)
    if found.is_absolute() or ".." in found.parts:
        raise UserError(f"{where}: the member {name!r} leads out of the archive; {HARMLESS}")
    return found
