"""Corpora: every source gives its documents in one order, the split is a function of names, errors name the place."""

import hashlib
import http.server
import io
import json
import lzma
import platform
import sysconfig
import threading
from pathlib import Path

import pytest
import yaml

from makelm import baselines, config, configfile, corpus
from makelm.documents import Document
from makelm.errors import UserError
from makelm.progress import Progress

REPOSITORY = Path(__file__).resolve().parent.parent
KNOWN_INTERPRETER = pytest.mark.skipif(
    (platform.python_implementation(), platform.python_version()) != ("CPython", "3.11.7"),
    reason="the figures are those of the standard library of CPython 3.11.7",
)


def split(kind: str = "hash", fraction: float = 0.5) -> config.Split:
    return config.Split(max_documents=None, shards=1, split=kind, valid_fraction=fraction)


def local(*paths: Path, text_key: str = "text") -> corpus.Source:
    part = {"source": "local", "paths": [str(path) for path in paths], "text_key": text_key}
    return corpus.local(config.LocalCorpus(**part, **split().model_dump()))


# ---- the split


def test_the_hash_split_is_the_one_that_is_written_down():
    value = int(hashlib.sha256(b"email/parser.py").hexdigest()[:16], 16) / 2**64
    assert corpus.hash_fraction("email/parser.py") == value


def test_the_hash_split_keeps_documents_whole_and_near_its_fraction():
    texts = [Document(f"{number}.txt", "text") for number in range(2000)]
    parts = [piece for text in texts for piece in corpus.divide(text, split(fraction=0.2))]
    assert [document for _, document in parts] == texts
    assert 0.17 < sum(part == "valid" for part, _ in parts) / 2000 < 0.23


def test_the_tail_split_cuts_every_document():
    parts = list(corpus.divide(Document("a.txt", "äbcdefghij"), split("tail", 0.3)))
    assert parts == [("train", Document("a.txt", "äbcdefg")), ("valid", Document("a.txt#tail", "hij"))]


def test_the_tail_split_leaves_no_empty_documents():
    assert list(corpus.divide(Document("a", "x"), split("tail"))) == [("valid", Document("a#tail", "x"))]
    assert list(corpus.divide(Document("a", ""), split("tail"))) == []


def test_the_tail_split_of_tiny_shakespeare_is_nanogpts(shakespeare):
    text = shakespeare.read_text(encoding="utf-8")
    parts = dict(corpus.divide(Document("input.txt", text), split("tail", 0.1)))
    assert (len(parts["train"].text), len(parts["valid"].text)) == (1_003_854, 111_540)
    assert parts["train"].text + parts["valid"].text == text


# ---- the standard library


@KNOWN_INTERPRETER
def test_the_standard_library_is_divided_as_documented():
    source = corpus.stdlib(Path(sysconfig.get_path("stdlib")))
    found = list(source.documents)
    valid = [piece for text in found for part, piece in corpus.divide(text, split(fraction=0.05)) if part == "valid"]
    assert (len(found), sum(len(text.text.encode()) for text in found)) == (550, 9_182_422)
    assert (len(valid), sum(len(text.text.encode()) for text in valid)) == (29, 307_393)
    assert [text.id for text in found[:2] + found[-2:]] == [
        *("__future__.py", "__hello__.py"),
        *("zoneinfo/_tzpath.py", "zoneinfo/_zoneinfo.py"),
    ]
    assert source.facts == {"implementation": "CPython", "python": "3.11.7"}
    xz = baselines.xz_bytes(baselines.join(sorted(valid)))
    assert round(xz * 8 / 307_393, 3) == 1.869


def test_tests_and_generated_tables_are_no_part_of_the_standard_library(tmp_path):
    wanted = ["abc.py", "test_support.py", "json/tool.py", "unittest/case.py"]
    others = ["test/a.py", "json/tests/a.py", "idlelib/a.py", "encodings/a.py", "site-packages/a/b.py", "data.txt"]
    for name in [*wanted, *others]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert [document.id for document in corpus.stdlib(tmp_path).documents] == wanted


def test_a_python_file_is_decoded_as_it_declares_and_keeps_its_line_ends(tmp_path):
    (tmp_path / "old.py").write_bytes("# coding: latin-1\r\nx = 'é'\r\n".encode("latin-1"))
    assert next(iter(corpus.stdlib(tmp_path).documents)).text == "# coding: latin-1\r\nx = 'é'\r\n"


# ---- local files


def test_folders_are_read_in_order_whatever_their_place(tmp_path):
    for place in ("here", "there"):
        folder = tmp_path / place / "books"
        (folder / "b").mkdir(parents=True)
        (folder / "b" / "one.md").write_text("one")
        (folder / "a.txt").write_text("eins\r\n")
        (folder / "c.jsonl").write_text('{"text": "x", "n": 1}\n\n{"text": "\\u00e9"}\n')
        (folder / ".hidden.txt").write_text("hidden")
        (folder / "picture.png").write_bytes(b"\xff")
    here, there = (list(local(tmp_path / place / "books").documents) for place in ("here", "there"))
    assert here == there
    assert here == [
        Document("books/a.txt", "eins\r\n"),
        Document("books/c.jsonl:1", "x"),
        Document("books/c.jsonl:3", "é"),
        Document("books/b/one.md", "one"),
    ]


def test_the_manifest_gets_the_sum_of_every_file_and_no_path(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    sum_ = "982d9e3eb996f559e633f4d194def3761d909f5a3b647d1a851fead67c32c9d1"
    assert local(tmp_path / "a.txt").facts == {"files": {"a.txt": {"bytes": 4, "sha256": sum_}}}


def test_a_file_that_is_not_utf8_is_named_with_the_byte(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"good\xff")
    with pytest.raises(UserError, match=r"a\.txt is not UTF-8 at byte 4"):
        list(local(tmp_path / "a.txt").documents)
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "good"}\n{"text": "\xe9"}\n')
    with pytest.raises(UserError, match=r"a\.jsonl is not UTF-8 at byte 27"):
        list(local(tmp_path / "a.jsonl").documents)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"body": "x", "title": "y"}', r"corpus\.text_key: .*a\.jsonl, line 2 has no 'text'; it has: body, title"),
        ('{"text": 3}', r"line 2: 'text' is no text but int"),
        ('{"text": null}', r"line 2: 'text' is no text but NoneType"),
        ("{text}", r"line 2 is not JSON"),
        ("[1]", r"line 2 is no JSON object"),
        (r'{"text": "ab\ud800"}', r"line 2: character 2 of 'text' is half of a surrogate pair"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    (tmp_path / "a.jsonl").write_text(f'{{"text": "fine"}}\n{line}\n')
    with pytest.raises(UserError, match=message):
        list(local(tmp_path / "a.jsonl").documents)


def test_bad_paths_are_named(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"corpus\.paths: no such file: .*/nothing"):
        local(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"corpus\.paths: no \.txt, \.md or \.jsonl file in .*/empty"):
        local(tmp_path / "empty")
    with pytest.raises(UserError, match="have the same name"):
        local(tmp_path / "a.txt", tmp_path / "a.txt")


def test_only_the_corpora_of_the_runs_must_exist(tmp_path, monkeypatch):
    raw = yaml.safe_load((REPOSITORY / "config.yaml").read_text())
    part = {
        "source": "local",
        "text_key": "text",
        "shards": 1,
        "max_documents": None,
        "split": "hash",
        "valid_fraction": 0.1,
    }
    raw["corpus"]["mine"] = {"paths": [str(tmp_path / "mine")], **part}
    assert corpus.source_files(configfile.load(raw)) == {"mine": []}
    raw["run"]["stdlib"]["corpus"] = "mine"
    with pytest.raises(UserError, match=r"^config: corpus\.mine\.paths: no such file: "):
        corpus.source_files(configfile.load(raw))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.txt").write_text("x")
    assert corpus.source_files(configfile.load(raw)) == {"mine": [str(tmp_path / "mine" / "a.txt")]}


# ---- the network


class Answers(http.server.BaseHTTPRequestHandler):
    """Gives the answers of its server one after the other: a status, or bytes, or bytes cut short."""

    def do_GET(self) -> None:
        answer = self.server.answers.pop(0)
        if isinstance(answer, int):
            self.send_error(answer)
            return
        body, missing = answer
        self.send_response(200)
        self.send_header("Content-Length", str(len(body) + missing))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keeps the tests quiet."""


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with http.server.HTTPServer(("127.0.0.1", 0), Answers) as new:
        thread = threading.Thread(target=new.serve_forever, args=(0.02,))
        thread.start()
        yield new
        new.shutdown()
        thread.join()


def fetch(server: http.server.HTTPServer, path: Path, *answers: object) -> tuple[str, list[str]]:
    server.answers = list(answers)
    said = io.StringIO()
    address = f"http://127.0.0.1:{server.server_port}/a.txt"
    found = corpus.fetch(address, path, Progress("fetch", said, None), waits=(0, 0))
    return found, said.getvalue().splitlines()


def test_a_download_is_known_by_its_sum(server, tmp_path):
    found, said = fetch(server, tmp_path / "a", (b"text", 0))
    assert found == hashlib.sha256(b"text").hexdigest() and (tmp_path / "a").read_bytes() == b"text" and not said


@pytest.mark.parametrize("trouble", [500, 503, 429, (b"te", 2)])
def test_a_passing_trouble_is_tried_again(server, tmp_path, trouble):
    found, said = fetch(server, tmp_path / "a", trouble, (b"text", 0))
    assert found == hashlib.sha256(b"text").hexdigest() and len(said) == 1 and "trying again" in said[0]


def test_a_lasting_trouble_is_an_error(server, tmp_path):
    with pytest.raises(UserError, match=r"cannot download http.*: HTTP 500"):
        fetch(server, tmp_path / "a", 500, 500, 500)
    with pytest.raises(UserError, match=r"cannot download http.*: HTTP 404"):
        fetch(server, tmp_path / "a", 404)


def url(address: str, sha256: str, scratch: Path) -> corpus.Source:
    part = {"source": "url", "url": address, "sha256": sha256, "text_key": "text"}
    return corpus.url(config.UrlCorpus(**part, **split().model_dump()), scratch, Progress("url", io.StringIO(), None))


def test_a_url_gives_documents_by_its_name(tmp_path):
    lines = tmp_path / "a.jsonl"
    lines.write_text('{"text": "eins"}\n{"text": "zwei"}\n')
    found = url(lines.as_uri(), hashlib.sha256(lines.read_bytes()).hexdigest(), tmp_path / "scratch")
    assert list(found.documents) == [Document("a.jsonl:1", "eins"), Document("a.jsonl:2", "zwei")]


def test_other_bytes_than_expected_are_an_error_with_both_sums(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(UserError, match=r"corpus\.sha256: .*has 982d9e3eb996.*, not 0000"):
        url((tmp_path / "a.txt").as_uri(), "0" * 64, tmp_path / "scratch")
    with pytest.raises(UserError, match=r"cannot download file:.*nothing\.txt"):
        url((tmp_path / "nothing.txt").as_uri(), "0" * 64, tmp_path / "scratch")


# ---- data sets


def data_set(folder: Path, **change: object) -> corpus.Source:
    part = {"source": "huggingface", "dataset": str(folder), "subset": None, "revision": None}
    part |= {"dataset_split": "train", "text_key": "text", **split().model_dump(), **change}
    return corpus.huggingface(config.DatasetsCorpus(**part))


def test_a_local_data_set_gives_its_rows_and_runs_no_code(tmp_path):
    rows = [{"text": "eins"}, {"text": "zwei\n"}]
    (tmp_path / "train.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (tmp_path / "loader.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    found = data_set(tmp_path)
    assert list(found.documents) == [Document("train:0", "eins"), Document("train:1", "zwei\n")]
    assert found.facts == {}
    assert not (tmp_path / "ran").exists()


def test_a_bad_data_set_is_explained_in_one_line(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"body": "x"}\n')
    with pytest.raises(UserError, match="row 0 of train has no 'text'; it has: body"):
        list(data_set(tmp_path).documents)
    with pytest.raises(UserError, match=r"corpus\.dataset: cannot read .*nosplit"):
        list(data_set(tmp_path, dataset_split="nosplit").documents)
    with pytest.raises(UserError, match=r"corpus\.dataset: cannot read"):
        data_set(tmp_path / "nothing")


# ---- baselines


def test_the_baselines_are_those_of_the_xz_format():
    train, valid = b"the quick brown fox " * 200, [Document("b", "the quick brown fox "), Document("a", "jumps")]
    found = baselines.xz_baselines(train, valid, 2)
    texts = {"alone": b"jumpsthe quick brown fox ", "train": train, "both": train + b"the quick brown fox jumps"}
    size = {name: len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)) for name, text in texts.items()}
    assert found["xz_bits_per_byte"] == size["alone"] * 8 / 25
    assert found["xz_after_train_bits_per_byte"] == (size["both"] - size["train"]) * 8 / 25


def test_the_tail_holds_what_the_compressor_can_look_back_at(monkeypatch):
    monkeypatch.setattr(baselines, "DICTIONARY", 5)
    tail = baselines.Tail()
    for text in ("abc", "def", "", "gh"):
        tail.add(text)
    assert tail.join() == b"defgh" and len(tail.pieces) <= 4
