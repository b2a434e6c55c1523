"""What stands before the ids in a file of tokens: the header of llm.c and modded-nanogpt, or nothing."""

import struct
from pathlib import Path
from typing import NamedTuple

HEADER_INTS = 256  # int32, little-endian: magic, version, number of tokens, zeros
HEADER_BYTES = HEADER_INTS * 4
# (magic, version) -> type of a token id: llm.c's files for GPT-2 and for Llama 3
FORMATS = {(20240520, 1): "uint16", (20240801, 7): "uint32"}
ID_BYTES = {"uint16": 2, "uint32": 4}


class NotTokens(Exception):
    """What a file that should hold token ids is instead, as the rest of a sentence."""


class Layout(NamedTuple):
    """Where in a file the ids are."""

    dtype: str
    offset: int  # bytes
    count: int


def shard_name(part: str, shard: int) -> str:
    """Returns the file name of one shard of the part train or valid."""
    return f"{part}-{shard:05d}.bin"


def header(dtype: str, count: int) -> bytes:
    """Returns the header of a file of `count` tokens."""
    (key,) = (key for key, value in FORMATS.items() if value == dtype)
    return struct.pack("<3i", *key, count).ljust(HEADER_BYTES, b"\0")


def layout(path: Path, headerless: str | None) -> Layout:
    """Returns where the ids are. Raises NotTokens where a file holds anything but a header and ids.

    `headerless` is the type of the ids of a file that is said to hold nothing else.
    """
    size = path.stat().st_size
    if headerless:
        if size % ID_BYTES[headerless]:
            raise NotTokens(f"is damaged: {size} bytes are no whole number of {headerless}")
        return Layout(headerless, 0, size // ID_BYTES[headerless])
    if size < HEADER_BYTES:
        raise NotTokens(f"is no token shard: {size} bytes are less than a header")
    with path.open("rb") as file:
        magic, version, count = struct.unpack("<3i", file.read(12))
    if (magic, version) not in FORMATS:
        raise NotTokens(f"is no token shard: magic {magic}, version {version}")
    dtype = FORMATS[magic, version]
    expected = HEADER_BYTES + count * ID_BYTES[dtype]
    if size != expected:
        raise NotTokens(f"is damaged: {size} bytes, but {count} tokens make {expected}")
    return Layout(dtype, HEADER_BYTES, count)
