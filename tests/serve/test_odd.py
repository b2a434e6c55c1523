"""What clients should not send, what no client waits for, and how a server begins and ends. `make test-serve`."""

import json
import os
import re
import socket
import subprocess
import threading
import time

import pytest
import served as serving
from checkout import ENVIRONMENT

serving.need_serving()

LONG = {"model": "small", "prompt": "a", "max_tokens": 1000, "temperature": 0}


def connect(served, receive: int | None = None) -> socket.socket:
    """Returns a connection; `receive` are the bytes that its system takes in before the program does."""
    made = socket.socket()
    made.settimeout(60)
    if receive:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
    made.connect(("127.0.0.1", served.port))
    return made


def head(body: bytes | None, *lines: str) -> bytes:
    """Returns a request."""
    length = [] if body is None else [f"Content-Length: {len(body)}"]
    words = ["POST /v1/completions HTTP/1.1", "Host: 127.0.0.1", *length, *lines, "", ""]
    return "\r\n".join(words).encode() + (body or b"")


def answered(connection: socket.socket) -> tuple[int, bytes]:
    """Returns the status and all that comes until the server ends the connection or an answer is whole."""
    content = b""
    while part := connection.recv(65536):
        content += part
        before, _, rest = content.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", before, re.IGNORECASE)
        if length and len(rest) >= int(length[1]):
            break
    return int(content.split()[1]), content


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (head(b"{"), 400),
        (head(b""), 400),
        (head(b'{"prompt": "\xff"}'), 400),
        (head(b'{"prompt": "a", "temperature": 1e999}'), 400),
        (head(b'{"prompt": "a", "max_tokens": ' + b"9" * 5000 + b"}"), 400),
        (head(b"[" * 200_000), 400),
        (head(b'{"prompt": "\\ud800"}'), 400),
        (head(b'{"model": "\\ud800"}'), 404),
        (head(None, "Content-Length: 99999999999"), 413),
        (head(None, "Content-Length: -1"), 400),
        (head(b"", "Host: other"), 400),
        (b"GET /\xc3\xa9 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 400),
        (b"GET /%0d%0a%00 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 404),
        (b"DELETE /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 405),
        (b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", 403),
        (b"GET / HTTP/1.1\r\nHost: [\r\n\r\n", 403),
        (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: http://[\r\n\r\n", 403),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),  # TLS
        (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"x" * 100_000, 400),
    ],
)
def test_what_is_no_request_is_an_error_of_the_api(served, sent, status):
    with connect(served) as connection:
        connection.sendall(sent)
        found, content = answered(connection)
    assert found == status, content
    error = json.loads(content.partition(b"\r\n\r\n")[2])["error"]
    assert set(error) == {"message", "type", "param", "code"} and "\n" not in error["message"]


def test_a_body_in_chunks_is_a_body_and_one_without_end_is_not(served):
    with connect(served) as connection:
        body = json.dumps(LONG | {"max_tokens": 3}).encode()
        connection.sendall(head(None, "Transfer-Encoding: chunked"))
        connection.sendall(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
        assert answered(connection)[0] == 200
    with connect(served) as connection:
        connection.sendall(head(None, "Transfer-Encoding: chunked"))
        for _ in range(3 * 16):
            connection.sendall(b"10000\r\n" + b" " * 65536 + b"\r\n")
        assert answered(connection)[0] == 413


def test_several_requests_share_a_connection(served):
    with connect(served) as connection:
        for _ in range(3):
            connection.sendall(head(json.dumps(LONG | {"max_tokens": 3}).encode()))
            assert answered(connection)[0] == 200
        connection.sendall(head(b"{"))
        assert answered(connection)[0] == 400
        connection.sendall(2 * head(json.dumps(LONG | {"max_tokens": 3}).encode()))
        assert answered(connection)[0] == 200


def until_free(served) -> None:
    """Returns when no slot is in use; fails where that takes longer than some chunks."""
    deadline = time.monotonic() + 10
    while served.metric("slots_used") or served.metric("queue_texts"):
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("stream", [False, True])
def test_who_leaves_frees_slots(served, stream):
    connections = [connect(served) for _ in range(12)]
    before = served.metric("generated_tokens_total")
    for connection in connections:
        connection.sendall(head(json.dumps(LONG | {"stream": stream, "n": 3}).encode()))
    while served.metric("slots_used") < 8:
        time.sleep(0.01)
    for connection in connections:
        connection.close()
    until_free(served)
    assert served.metric("generated_tokens_total") - before < 12 * 3 * 1000 / 2


def test_who_does_not_read_is_cut_off_in_the_end_and_keeps_nobody_waiting(small_run, tmp_path):
    with serving.running(small_run, tmp_path / "log", "--timeout", "15", "--max-tokens", "4096") as served:
        with connect(served, receive=4096) as deaf:
            many = {"n": 8, "max_tokens": 4096, "logprobs": 5, "stream": True}
            deaf.sendall(head(json.dumps(LONG | many).encode()))
            while served.metric("slots_used") < 8:
                time.sleep(0.01)
            started = time.monotonic()
            assert served.ask("/v1/completions", LONG | {"max_tokens": 5})[0] == 200
            while " 504 " not in served.log.read_text() and " 200 " not in served.log.read_text().partition(" 8 + ")[2]:
                assert time.monotonic() - started < 60, served.log.read_text()
                time.sleep(0.1)
        until_free(served)
        assert "Traceback" not in served.log.read_text()


def test_an_unreadable_answer_does_not_hold_up_the_end(small_run, tmp_path):
    with serving.running(small_run, tmp_path / "log", "--max-tokens", "100000") as served:
        ends, threads = [], []

        def wait() -> None:
            body = LONG | {"max_tokens": 100_000, "stream": True}
            ends.append(served.ask("/v1/completions", body)[2].decode().split("\n\n")[-2])

        for _ in range(3):
            threads.append(threading.Thread(target=wait))
            threads[-1].start()
        while served.metric("slots_used") < 3:
            time.sleep(0.01)
        started = time.monotonic()
        assert served.stop() == 0 and time.monotonic() - started < 15
        for thread in threads:
            thread.join(10)
        assert [json.loads(end.removeprefix("data: "))["error"]["code"] for end in ends] == ["stopping"] * 3
        assert served.log.read_text().endswith(" ended\n") and "Traceback" not in served.log.read_text()


def test_a_signal_while_it_compiles_ends_it(small_run, tmp_path):
    with (tmp_path / "log").open("w") as log:
        command = [*serving.PROGRAM, "--run", str(small_run), "--port", "0"]
        process = subprocess.Popen(command, stderr=log, env=ENVIRONMENT)
    while " at http://" not in (tmp_path / "log").read_text():
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(2)
    assert process.wait(60) == 0
    os.sync()
