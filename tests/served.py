"""A small run, and a server of it: a process of its own that tests of serving ask."""

import http.client
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from checkout import ENVIRONMENT, ROOT
from conftest import random_parameters, shape
from test_prompts import encoding

from makelm import weights

MODEL = shape(context_length=128, n_layers=2, mask_documents=True)
PROGRAM = [sys.executable, str(ROOT / "scripts/serve_model.py"), "--cores", "2"]
READY = 180.0  # seconds until a server has compiled all, on a machine that does other things too


def make_run(results: Path) -> Path:
    """Writes a run of random weights with its tokenizer (of bytes) and returns its folder."""
    run, folder = results / "train_model/small", results / "train_tokenizer/bytes"
    for path in (run / "weights", folder):
        path.mkdir(parents=True)
    encoding.save(folder)
    parameters = random_parameters(MODEL, encoding.vocab_size)
    made = weights.Weights(MODEL, encoding.vocab_size, encoding.end_of_text, encoding.digest, parameters)
    weights.save(made, run / weights.FILE)
    return run


class Server:
    """A server that runs, and its log."""

    def __init__(self, run: Path, log: Path, *flags: str, **variables: str):
        """Starts it on a free port; returns when it has compiled everything."""
        self.log, command = log, [*PROGRAM, "--run", str(run), "--port", "0", *flags]
        with log.open("w") as file:
            self.process = subprocess.Popen(command, stderr=file, env=ENVIRONMENT | variables)
        self.wait_for("; ready")
        self.port = int(re.search(r" at http://\S+:(\d+)/", log.read_text())[1])
        self.url = f"http://127.0.0.1:{self.port}"

    def wait_for(self, words: str) -> None:
        """Returns when the log has these words."""
        deadline = time.monotonic() + READY
        while words not in self.log.read_text():
            assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)

    def ask(self, path: str, body: dict | bytes | None = None, **headers: str) -> tuple[int, dict, bytes]:
        """Returns status, headers and body of an answer; a body is sent by POST."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("GET" if data is None else "POST", path, data, names)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, content

    def metric(self, name: str) -> float:
        """Returns one of its numbers."""
        return float(re.search(rf"^makelm_{name} (\S+)$", self.ask("/metrics")[2].decode(), re.MULTILINE)[1])

    def memory(self) -> int:
        """Returns the bytes it has in memory."""
        return psutil.Process(self.process.pid).memory_info().rss

    def stop(self) -> int:
        """Ends it and returns its exit code."""
        self.process.terminate()
        return self.process.wait(30)


@contextmanager
def running(run: Path, log: Path, *flags: str, **variables: str) -> Iterator[Server]:
    """A server that ends with the block."""
    server = Server(run, log, *flags, **variables)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()


@pytest.fixture(scope="session")
def small_run(tmp_path_factory) -> Path:
    """The folder of a small run, its tokenizer beside it."""
    return make_run(tmp_path_factory.mktemp("serving") / "results")


@pytest.fixture(scope="session")
def served(small_run, tmp_path_factory) -> Iterator[Server]:
    """A server for all tests that do not need one of their own; what it compiles stands in its log."""
    log = tmp_path_factory.mktemp("served") / "log"
    with running(small_run, log, "--queue", "128", JAX_LOG_COMPILES="1") as server:
        yield server
        assert server.stop() == 0
        after = log.read_text().partition("; ready")[2]
        # what scores prompts is compiled when it is first asked for
        assert "Compiling" not in after.replace("Compiling jit(score)", "") and "Traceback" not in after, after[-4000:]


def need_serving() -> None:
    """Skips a module whose tests `make test-serve` runs."""
    if "MAKELM_SERVE" not in os.environ:
        pytest.skip("starts servers: make test-serve", allow_module_level=True)
