"""Documents out of files: every kind in every wrapping gives the same, nothing large is read whole, damage is named."""

import gzip
import io
import json
import lzma
import subprocess
import sys
import tarfile
from pathlib import Path

import pyarrow
import pytest
import zstandard
from pyarrow import parquet

from makelm import reading
from makelm.config_corpus import TextKey
from makelm.documents import Document
from makelm.errors import UserError

TEXT = TextKey(columns=["text"], separator="", split_at=None)
COMPRESS = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress, ".zst": zstandard.compress}
ROWS = [{"n": 1, "text": "eins\n"}, {"n": 2, "text": "zwei é"}]
LINES = "".join(f"{json.dumps(row)}\n\n" for row in ROWS).encode()


def table(rows: list[dict], **options: object) -> bytes:
    """Returns a Parquet file."""
    file = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), file, **options)
    return file.getvalue()


def archive(members: dict[str, bytes | tarfile.TarInfo]) -> bytes:
    """Returns a tar file."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as made:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                content.name = name
                made.addfile(content)
            else:
                member = tarfile.TarInfo(name)
                member.size = len(content)
                made.addfile(member, io.BytesIO(content))
    return file.getvalue()


def read(folder: Path, name: str, content: bytes, keys: TextKey = TEXT) -> list[Document]:
    (folder / name).write_bytes(content)
    return list(reading.documents(folder / name, name, keys, name))


# ---- kinds

MEMBERS = {
    **{"./x/1.txt": b"1", "2.jsonl.gz": gzip.compress(LINES)},
    **{"3.parquet": table(ROWS), "4.md.zst": zstandard.compress(b"4")},
}
KINDS = {
    "a.txt": ("eins\r\n é".encode(), [("", "eins\r\n é")]),
    "a.md": (b"# eins", [("", "# eins")]),
    "a.jsonl": (LINES, [(":1", "eins\n"), (":3", "zwei é")]),
    "a.parquet": (table(ROWS, row_group_size=1), [(":0", "eins\n"), (":1", "zwei é")]),
    "a.tar": (
        archive(MEMBERS),
        [
            *(("/x/1.txt", "1"), ("/2.jsonl.gz:1", "eins\n"), ("/2.jsonl.gz:3", "zwei é")),
            *(("/3.parquet:0", "eins\n"), ("/3.parquet:1", "zwei é"), ("/4.md.zst", "4")),
        ],
    ),
}


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_file_gives_its_documents(tmp_path, name, compression):
    content, expected = KINDS[name]
    found = read(tmp_path, name + compression, COMPRESS[compression](content))
    assert found == [Document(name + compression + rest, text) for rest, text in expected]


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.jsonl"])
def test_a_byte_order_mark_that_begins_a_file_is_no_text(tmp_path, name, compression):
    content, expected = KINDS[name]
    content = COMPRESS[compression](b"\xef\xbb\xbf" + content)
    expected = [(f"{name}{compression}{rest}", text) for rest, text in expected]
    assert read(tmp_path, name + compression, content) == [Document(*each) for each in expected]
    found = read(tmp_path, "x.tar", archive({name + compression: content}))
    assert found == [Document(f"x.tar/{place}", text) for place, text in expected]


def test_only_what_begins_a_file_is_a_byte_order_mark(tmp_path):
    assert read(tmp_path, "a.txt", b"\xef\xbb\xbf") == [Document("a.txt", "")]
    assert read(tmp_path, "b.txt", "\ufeff\ufeffa\ufeff".encode())[0].text == "\ufeffa\ufeff"
    with pytest.raises(UserError, match="line 2 is not JSON"):
        read(tmp_path, "c.jsonl", b'{"text": ""}\n\xef\xbb\xbf{"text": ""}')
    with pytest.raises(UserError, match="not UTF-8 at byte 4"):
        read(tmp_path, "d.txt", b"\xef\xbb\xbfa\xff")


def test_what_is_compressed_in_several_parts_is_read_to_its_end(tmp_path):
    for name, compress in list(COMPRESS.items())[1:]:
        assert read(tmp_path, f"a.txt{name}", compress(b"eins ") + compress(b"zwei"))[0].text == "eins zwei"


MARK = "<|endoftext|>"
PARTED = TextKey(columns=["text"], separator="", split_at=MARK)


@pytest.mark.parametrize("chunk", [1, 5, 100])
@pytest.mark.parametrize("ending", COMPRESS)
def test_a_text_is_parted_into_documents_wherever_it_is_read_in_pieces(tmp_path, monkeypatch, chunk, ending):
    monkeypatch.setattr(reading, "CHUNK", chunk)
    text = f"\ufeff{MARK}one é\n{MARK}\n{MARK}<|<|endoftext|>two<|endoftext|"
    found = read(tmp_path, f"a.txt{ending}", COMPRESS[ending](text.encode()), PARTED)
    assert [text for _, text in found] == ["one é\n", "<|", "two<|endoftext|"]
    assert [name for name, _ in found] == [f"a.txt{ending}:{number}" for number in (2, 4, 5)]
    with pytest.raises(UserError, match=r"not UTF-8 at byte 15;"):
        read(tmp_path, "b.txt", f"a{MARK}b".encode() + b"\xff", PARTED)


def test_the_text_of_a_row_is_parted_too(tmp_path):
    rows = [{"text": f"a{MARK}b"}, {"text": "c"}, {"text": MARK}]
    found = read(tmp_path, "a.parquet", table(rows), PARTED)
    assert found == [("a.parquet:0:1", "a"), ("a.parquet:0:2", "b"), ("a.parquet:1:1", "c")]
    found = read(tmp_path, "a.jsonl", "".join(f"{json.dumps(row)}\n" for row in rows).encode(), PARTED)
    assert found == [("a.jsonl:1:1", "a"), ("a.jsonl:1:2", "b"), ("a.jsonl:2:1", "c")]


def test_columns_are_joined_as_the_configuration_says(tmp_path):
    keys = TextKey(columns=["title", "body"], separator="\n\n", split_at=None)
    row = {"body": "b", "title": "t", "other": 3}
    assert read(tmp_path, "a.jsonl", json.dumps(row).encode(), keys)[0].text == "t\n\nb"
    assert read(tmp_path, "a.parquet", table([row]), keys)[0].text == "t\n\nb"


# ---- archives


def special(kind: bytes, target: str = "") -> tarfile.TarInfo:
    """Returns the header of a member that is no file."""
    member = tarfile.TarInfo()
    member.type, member.linkname = kind, target
    return member


def test_what_is_no_text_in_an_archive_is_left_out(tmp_path):
    members = {
        "folder.txt": special(tarfile.DIRTYPE),
        "link.txt": special(tarfile.SYMTYPE, "/etc/passwd"),
        "hard.txt": special(tarfile.LNKTYPE, "a.txt"),
        "device.txt": special(tarfile.CHRTYPE),
        "pipe.txt": special(tarfile.FIFOTYPE),
        ".hidden/a.txt": b"hidden",
        "inner.tar": b"no archive",
        "picture.png": b"\xff",
        "a.txt": b"a",
    }
    for name, compress in COMPRESS.items():
        assert read(tmp_path, f"x.tar{name}", compress(archive(members))) == [Document(f"x.tar{name}/a.txt", "a")]


@pytest.mark.parametrize("name", ["/etc/a.txt", "../a.txt", "b/../../a.txt", "../a.png"])
def test_names_that_lead_out_of_an_archive_are_refused(tmp_path, name):
    with pytest.raises(UserError, match=rf"^x\.tar: the member '{name}' leads out of the archive; "):
        read(tmp_path, "x.tar", archive({"good.txt": b"a", name: b"b"}))
    assert [path.name for path in tmp_path.rglob("*")] == ["x.tar"]


def test_a_name_that_stands_twice_in_an_archive_is_refused(tmp_path):
    both = archive({"a.txt": b"1"})[:1024] + archive({"./a.txt": b"2"})
    with pytest.raises(UserError, match=r"x\.tar has two members 'a\.txt'"):
        read(tmp_path, "x.tar", both)


# ---- damage

WHOLE = {
    name + compression: COMPRESS[compression](content)
    for name, (content, _) in KINDS.items()
    for compression in COMPRESS
    if compression or name in ("a.tar", "a.parquet")
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_file_that_was_cut_off_is_named(tmp_path, name):
    end = -1024 if name == "a.tar" else -5  # of an archive the mark at its end
    for content in (WHOLE[name][:end], WHOLE[name][: len(WHOLE[name]) // 2], b""):
        if name == "a.tar":
            content = content.rstrip(b"\0")
        with pytest.raises(
            UserError, match=rf"^{name}(, member .*)? (is damaged, or not what its name says: .|is empty, )"
        ):
            read(tmp_path, name, content)


@pytest.mark.parametrize("name", [name for name in WHOLE if name.endswith((".gz", ".xz"))])
def test_a_flipped_bit_is_noticed(tmp_path, name):
    content = bytearray(WHOLE[name])
    content[-6 if name.endswith(".gz") else -20] ^= 1  # in the checksum
    with pytest.raises(UserError, match="is damaged"):
        read(tmp_path, name, bytes(content))


def test_a_compressed_archive_is_read_to_the_checksum_behind_its_padding(tmp_path):
    content = bytearray(gzip.compress(archive({"a.txt": b"a"}) + bytes(3 * reading.CHUNK)))
    assert len(read(tmp_path, "a.tar.gz", bytes(content))) == 1
    content[-6] ^= 1
    with pytest.raises(UserError, match=r"^a\.tar\.gz is damaged"):
        read(tmp_path, "a.tar.gz", bytes(content))


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_an_archive_with_a_damaged_header_does_not_just_end_there(tmp_path, name):
    content = bytearray(archive({"1.txt": b"1", "2.txt": b"2"}))
    content[1024 + 5] ^= 1
    with pytest.raises(UserError, match=rf"^{name} is damaged, or not what its name says: bad checksum"):
        read(tmp_path, name, gzip.compress(content) if name.endswith("gz") else bytes(content))


def test_what_is_not_utf8_is_named_with_the_place(tmp_path):
    with pytest.raises(UserError, match=r"a\.txt\.gz is not UTF-8 at byte 4"):
        read(tmp_path, "a.txt.gz", gzip.compress(b"good\xff"))
    lines = b'{"text": "good"}\n{"text": "\xe9"}\n'
    with pytest.raises(UserError, match=r"a\.jsonl is not UTF-8 at byte 27"):
        read(tmp_path, "a.jsonl", lines)
    with pytest.raises(UserError, match=r"^a\.tar\.xz, member b/c\.jsonl is not UTF-8 at byte 27"):
        read(tmp_path, "a.tar.xz", lzma.compress(archive({"b/c.jsonl": lines})))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"body": "x", "title": "y"}', r"^text_key: a\.jsonl, line 2 has no 'text'; it has: body, title"),
        ('{"text": 3}', r"line 2: 'text' is no text but int"),
        ('{"text": null}', r"line 2: 'text' is no text but NoneType"),
        ("{text}", r"line 2 is not JSON"),
        ("[1]", r"line 2 is no JSON object"),
        (r'{"text": "ab\ud800"}', r"line 2: character 2 of 'text' is half of a surrogate pair"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path, "a.jsonl", f'{{"text": "fine"}}\n{line}\n'.encode())


def test_a_bad_row_is_named(tmp_path):
    with pytest.raises(UserError, match=r"^text_key: a\.parquet has no 'text'; it has: body, n"):
        read(tmp_path, "a.parquet", table([{"body": "x", "n": 1}]))
    with pytest.raises(UserError, match=r"a\.parquet, row 1: 'text' is no text but NoneType"):
        read(tmp_path, "a.parquet", table([{"text": "x"}, {"text": None}]))


# ---- memory

READ_ALL = """
import resource, sys
from pathlib import Path
from makelm import reading
from makelm.config_corpus import TextKey
path = Path(sys.argv[1])
keys = TextKey(columns=["text"], separator="", split_at=None)
next(reading.documents(path, path.name, keys, ""))  # what it imports is no matter
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
count = sum(len(document.text) for document in reading.documents(path, path.name, keys, ""))
print(count, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10)
"""


@pytest.mark.skipif(sys.platform == "darwin", reason="it counts memory in bytes there")
@pytest.mark.parametrize("name", ["a.jsonl.zst", "a.tar.zst", "a.parquet"])
def test_what_is_large_is_not_in_memory(tmp_path, name):
    """100 MB of text, of which no more than 20 MB may be in memory."""
    text = "It was the best of times. " * 800
    rows = 5_000
    line = f'{{"text": "{text}"}}\n'.encode()
    if name == "a.parquet":
        rows_of_text = pyarrow.table({"text": [text + str(row) for row in range(rows)]})
        parquet.write_table(rows_of_text, tmp_path / name, use_dictionary=False)
    else:
        content = line * rows
        if ".tar" in name:
            content = archive({"a.jsonl": content})
        (tmp_path / name).write_bytes(zstandard.compress(content))
    command = [sys.executable, "-c", READ_ALL, str(tmp_path / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(reading.__file__).parents[1])
    count, grown = map(int, done.stdout.split())
    assert count >= rows * len(text) > 100e6 and grown < 20 << 20
