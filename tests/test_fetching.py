"""Downloads from a server on this machine that misbehaves: the right bytes or a clear error, and a rerun goes on."""

import hashlib
import io
import signal
import socket
import subprocess
import sys
import time
from email.utils import formatdate
from pathlib import Path

import pytest
import web

from makelm import fetching
from makelm.errors import UserError
from makelm.progress import Progress

BODY = bytes(range(256)) * 20  # 5,120 bytes
SUM = hashlib.sha256(BODY).hexdigest()
OTHER = BODY[::-1]


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(fetching, "TIMEOUT", 5)
    with web.serve() as new:
        yield new


class Fetched:
    """A download into a folder: its file, and what was said."""

    def __init__(self, server: web.Web, folder: Path, *answers: object, sha256: str = SUM, waits: tuple = (0, 0)):
        server.answers, server.asked = list(answers), []
        folder.mkdir(exist_ok=True)
        said = io.StringIO()
        try:
            self.path = fetching.fetch(server.address("a.txt"), sha256, folder, Progress("fetch", said, None), waits)
        finally:
            self.said = said.getvalue().splitlines()
            self.ranges = [asked.get("Range") for asked in server.asked]

    @property
    def right(self) -> bool:
        return self.path.read_bytes() == BODY


def test_a_file_comes_in_one_go(server, tmp_path):
    found = Fetched(server, tmp_path, web.content(BODY))
    assert found.right and found.ranges == [None] and not found.said
    assert server.asked[0]["User-Agent"] == "makelm" and server.asked[0]["Accept-Encoding"] == "identity"


def test_an_empty_file_is_a_file(server, tmp_path):
    found = Fetched(server, tmp_path, web.content(b""), sha256=hashlib.sha256().hexdigest())
    assert found.path.read_bytes() == b""


def test_what_is_there_already_needs_no_network(server, tmp_path):
    (tmp_path / SUM).write_bytes(BODY)
    found = Fetched(server, tmp_path, web.status(500))
    assert found.right and not server.asked


def test_a_slow_server_is_waited_for(server, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "TIMEOUT", 0.5)
    found = Fetched(server, tmp_path, web.content(BODY, pause=0.12))  # 0.72 s in all
    assert found.right and found.ranges == [None]


def test_a_server_that_falls_silent_is_asked_again_for_the_rest(server, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "TIMEOUT", 0.1)

    def silent(answer: web.Answer) -> None:
        answer.head(200, Content_Length=len(BODY))
        web.send(answer, BODY[:1000])
        time.sleep(0.5)

    found = Fetched(server, tmp_path, silent, web.part(BODY))
    assert found.right and found.ranges == [None, "bytes=1000-"] and "timed out" in found.said[0]


def test_what_breaks_off_goes_on_where_it_was(server, tmp_path):
    cuts = [web.part(BODY, stop=stop) for stop in range(500, 5001, 500)]  # more often than there are attempts
    found = Fetched(server, tmp_path, *cuts, web.part(BODY), waits=(0, 0))
    assert found.right and found.ranges == [None, *(f"bytes={stop}-" for stop in range(500, 5001, 500))]


def test_a_server_without_ranges_sends_all_again(server, tmp_path):
    assert Fetched(server, tmp_path, web.content(BODY, stop=3000), web.content(BODY)).right


def test_another_part_than_the_one_asked_for_is_put_where_it_belongs(server, tmp_path):
    found = Fetched(server, tmp_path, web.part(BODY, stop=3000), web.part(BODY, back=700))
    assert found.right and len(found.ranges) == 2
    found = Fetched(server, tmp_path / "later", web.part(BODY, stop=3000), web.part(BODY, back=-700), web.content(BODY))
    assert found.right and found.ranges == [None, "bytes=3000-", None]


def test_a_part_of_another_version_is_not_put_behind_this_one(server, tmp_path):
    found = Fetched(server, tmp_path, web.part(OTHER, stop=3000, ETag='"old"'), web.part(BODY, ETag='"new"'))
    assert found.right and len(found.ranges) == 2
    assert server.asked[1]["If-Range"] == '"old"'


def test_a_mixture_of_versions_is_fetched_anew_once(server, tmp_path):
    found = Fetched(server, tmp_path, web.part(OTHER, stop=3000), web.part(BODY), web.content(BODY))
    assert found.right and found.ranges == [None, "bytes=3000-", None]
    assert "the pieces do not make the right file" in found.said[-1]


@pytest.mark.parametrize("length", [len(BODY) + 9, 10**12])
def test_a_server_that_promises_too_much_is_not_believed(server, tmp_path, length):
    assert Fetched(server, tmp_path, web.content(BODY, length=length)).right
    assert Fetched(server, tmp_path / "ranges", web.content(BODY, length=length), web.part(BODY)).right


def test_a_server_that_promises_too_little_is_an_error_and_a_rerun_begins_anew(server, tmp_path):
    with pytest.raises(UserError, match=rf"corpus\.sha256: the file at .* has \w+, not {SUM}; it has changed"):
        Fetched(server, tmp_path, web.content(BODY, length=3000))
    assert not list(tmp_path.iterdir())
    assert Fetched(server, tmp_path, web.content(BODY)).ranges == [None]


def test_wrong_bytes_are_an_error_with_both_sums_and_do_not_stay(server, tmp_path):
    with pytest.raises(UserError, match=rf"has {hashlib.sha256(OTHER).hexdigest()}, not {SUM}"):
        Fetched(server, tmp_path, web.content(OTHER, ETag='"x"'))
    assert not list(tmp_path.iterdir()) and len(server.asked) == 1


def test_a_redirect_is_followed_with_the_part_that_is_wanted(server, tmp_path):
    there = web.status(302, Location=server.address("elsewhere"))
    found = Fetched(server, tmp_path, there, web.part(BODY, stop=3000), there, web.part(BODY))
    assert found.right and found.ranges == [None, None, "bytes=3000-", "bytes=3000-"]
    assert server.asked[1]["path"] == "/elsewhere"


def test_redirects_in_a_circle_are_an_error(server, tmp_path):
    with pytest.raises(UserError, match=r"cannot download .*: HTTP 302 .*infinite loop"):
        Fetched(server, tmp_path, web.status(302, Location=server.address("a.txt")))


@pytest.mark.parametrize("code", [408, 429, 500, 503])
def test_a_passing_trouble_is_tried_again(server, tmp_path, code):
    found = Fetched(server, tmp_path, web.status(code), web.content(BODY))
    assert found.right and len(found.said) == 1 and f"HTTP {code}" in found.said[0] and "trying again" in found.said[0]


def test_a_lasting_trouble_is_an_error_and_keeps_what_has_come(server, tmp_path):
    with pytest.raises(UserError, match=r"cannot download http.*: HTTP 500"):
        Fetched(server, tmp_path, web.part(BODY, stop=3000), web.status(500))
    assert len(server.asked) == 4  # the first, and as many as there are waits after the last byte, and one
    found = Fetched(server, tmp_path, web.part(BODY))
    assert found.right and found.ranges == ["bytes=3000-"] and "going on after 3.0 kB" in found.said[0]


@pytest.mark.parametrize("code", [401, 403, 404, 410])
def test_what_will_not_pass_is_not_tried_again(server, tmp_path, code):
    with pytest.raises(UserError, match=f"cannot download http.*: HTTP {code}"):
        Fetched(server, tmp_path, web.status(code))
    assert len(server.asked) == 1


def test_the_server_says_how_long_to_wait(server, tmp_path, monkeypatch):
    slept = []
    monkeypatch.setattr(time, "sleep", slept.append)
    soon = formatdate(time.time() + 30, usegmt=True)
    answers = [web.status(429, Retry_After=7), web.status(503, Retry_After=soon), web.content(BODY)]
    assert Fetched(server, tmp_path, *answers, waits=(1, 2)).right
    assert slept[0] == 7 and 28 <= slept[1] <= 30
    with pytest.raises(UserError, match=r"HTTP 429 .*, for 86400 s; run it again then"):
        Fetched(server, tmp_path / "other", web.status(429, Retry_After=86400))


def test_waits_grow_while_nothing_comes(server, tmp_path, monkeypatch):
    slept = []
    monkeypatch.setattr(time, "sleep", slept.append)
    answers = [web.status(500), web.status(500), web.part(BODY, stop=9), web.status(500), web.part(BODY)]
    assert Fetched(server, tmp_path, *answers, waits=(1, 2, 4)).right
    assert slept == [1, 2, 1, 1]  # what came in between counts


def test_what_lies_there_longer_than_the_file_is_thrown_away(server, tmp_path):
    (tmp_path / SUM).write_bytes(OTHER + OTHER)
    assert Fetched(server, tmp_path, web.part(BODY)).right


def test_a_server_that_is_not_there_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with pytest.raises(UserError, match=r"cannot download .*refused"):
        fetching.fetch(f"http://127.0.0.1:{port}/a", SUM, tmp_path, Progress("fetch", io.StringIO(), None), (0,))


def test_the_environments_proxy_is_asked(server, tmp_path, monkeypatch):
    monkeypatch.delenv("no_proxy")
    monkeypatch.setenv("http_proxy", server.address(""))
    server.answers = [web.content(BODY)]
    path = fetching.fetch("http://corpus.invalid/a.txt", SUM, tmp_path, Progress("fetch", io.StringIO(), None))
    assert path.read_bytes() == BODY and server.asked[0]["path"] == "http://corpus.invalid/a.txt"


def test_a_file_of_this_machine_is_read_where_it_is(tmp_path):
    (tmp_path / "a b.txt").write_bytes(BODY)
    address = (tmp_path / "a b.txt").as_uri()
    assert fetching.fetch(address, SUM, tmp_path / "none", None) == tmp_path / "a b.txt"
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("addresses", "expected"),
    [
        (["http://a/b/c.txt"], ["c.txt"]),
        (["http://a/b/c%20d.txt?download=true"], ["c d.txt"]),
        (["http://a/x/1.txt", "http://a/x/y/1.txt"], ["1.txt", "y/1.txt"]),
        (["http://a/1.txt", "https://b/1.txt"], ["a/1.txt", "b/1.txt"]),
        (["file:///data/1.txt"], ["1.txt"]),
    ],
)
def test_names_are_those_below_what_addresses_have_in_common(addresses, expected):
    assert fetching.names(addresses) == expected


def test_two_addresses_of_one_name_are_refused():
    with pytest.raises(UserError, match=r"corpus\.url: http://a/1\.txt\?x=1 and another address both give .* 1\.txt"):
        fetching.names(["http://a/1.txt?x=1", "http://a/1.txt?x=2"])


def test_what_is_of_no_configured_file_is_removed(tmp_path):
    for name in (SUM, SUM + fetching.VERSION, "0" * 64, "0" * 64 + fetching.VERSION):
        (tmp_path / name).touch()
    fetching.keep_only(tmp_path, [SUM])
    assert sorted(path.name for path in tmp_path.iterdir()) == [SUM, SUM + fetching.VERSION]


def test_a_killed_download_goes_on_with_the_next_run(server, tmp_path):
    """kill -9 in the middle of a slow download; what had come is not asked for again."""

    def slowly(answer: web.Answer) -> None:
        answer.head(200, Content_Length=len(BODY), ETag='"v"')
        web.send(answer, BODY[:2000])
        time.sleep(20)

    server.answers = [slowly]
    program = "import sys, pathlib; from makelm import fetching, progress; fetching.fetch(*sys.argv[1:3],"
    program += " pathlib.Path(sys.argv[3]), progress.Progress('x', sys.stdout, None))"
    command = [sys.executable, "-c", program, server.address("a.txt"), SUM, str(tmp_path)]
    process = subprocess.Popen(command, cwd=Path(fetching.__file__).parents[1])
    deadline = time.monotonic() + 20
    while fetching.have(tmp_path / SUM) < 2000:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    found = Fetched(server, tmp_path, web.part(BODY, ETag='"v"'))
    assert found.right and found.ranges == ["bytes=2000-"] and server.asked[0]["If-Range"] == '"v"'
