"""Serving: what is asked and refused, how texts become answers, and a server in this process that is asked."""

import http.client
import itertools
import json
import socket
import threading
import time
from contextlib import suppress
from dataclasses import replace

import pytest
from conftest import random_parameters, shape
from pydantic import ValidationError
from served import make_run
from test_prompts import encoding

from makelm import serving, serving_app, serving_connections, serving_requests
from makelm.generate import Options, Piece, generate
from makelm.model import Skeleton
from makelm.serving_answers import Choice, Completion, Names
from makelm.serving_engine import SteadyEngine, Writer
from makelm.serving_errors import ApiError
from makelm.serving_metrics import Metrics
from makelm.serving_requests import Limits
from makelm.serving_service import Service

MODEL = shape(context_length=32, n_layers=1)
SKELETON = Skeleton(MODEL, encoding.vocab_size, encoding.end_of_text)
LIMITS = Limits(max_tokens=512, queue=6, body=2000, seconds=20)
TOKEN = {"Authorization": "Bearer hush"}


def engine(slots: int = 2) -> SteadyEngine:
    parameters = random_parameters(MODEL, encoding.vocab_size)
    return SteadyEngine(SKELETON, parameters, encoding.tokens, encoding.end_of_text, slots, chunk=4)


# ---- requests


def asked(**keys) -> serving_requests.Asked:
    body = serving_requests.parse(json.dumps(keys).encode())
    return serving_requests.asked(body, encoding, SKELETON, LIMITS)


def refused(**keys) -> ApiError:
    with pytest.raises(ApiError) as caught:
        asked(**keys)
    assert caught.value.status == 400
    return caught.value


def test_a_prompt_has_any_of_four_shapes_and_choices_have_seeds_of_their_own():
    first = encoding.first
    for prompt, ids in [
        ("ab", [[first, 97, 98]]),
        (["ab", "c"], [[first, 97, 98], [first, 99]]),
        ([97, 98], [[97, 98]]),
        ([[97], [98, 99]], [[97], [98, 99]]),
        (None, [[first]]),
    ]:
        assert asked(prompt=prompt).prompts == ids
    found = asked(prompt=["a", "b"], n=2, seed=2**64 - 1, stop="x", top_k=0, top_p=1, logprobs=0, echo=None)
    assert [each.seed for each in found.options] == [2**64 - 1, 0]
    assert found.options[0] == Options(16, 1.0, seed=2**64 - 1, stop=("x",)) and found.logprobs == 0
    assert asked(prompt="a", echo=True).echoes == asked(prompt=[97], echo=True).echoes == ["a"]
    assert asked(prompt="a").options[0].seed != asked(prompt="a").options[0].seed


@pytest.mark.parametrize(
    ("keys", "param", "message"),
    [
        ({"promt": "a"}, "promt", "unknown key 'promt'; did you mean 'prompt'?"),
        ({"prompt": [1, "a"]}, "prompt", "prompt: should be a string, a list of strings, a list of token ids"),
        ({"prompt": []}, "prompt", "prompt: should be a string"),
        ({"prompt": [[]]}, "prompt", "prompt: should be a string"),
        ({"prompt": [True]}, "prompt", "prompt: should be a string"),
        ({"prompt": [encoding.vocab_size]}, "prompt", "token ids end at 256"),
        ({"prompt": "\ud800"}, "prompt", "half of a surrogate pair"),
        ({"prompt": "x" * 40}, "prompt", "context is 32 tokens, but the prompt has more tokens than that"),
        ({"prompt": [1] * 33}, "prompt", "the prompt has 33 tokens"),
        ({"prompt": ["a"] * 4, "n": 2}, "n", "8 texts at once (prompts times n); at most 6 here"),
        ({"prompt": ["a"] * 7}, "prompt", "7 texts at once (prompts times n); at most 6 here"),
        ({"max_tokens": -1}, "max_tokens", "greater than or equal to 0"),
        ({"max_tokens": 513}, "max_tokens", "at most 512 here"),
        ({"max_tokens": 1.5}, "max_tokens", "valid integer"),
        ({"temperature": -1}, "temperature", "greater than or equal to 0"),
        ({"temperature": 1e-9}, "temperature", "should be 0 or at least 0.0001"),
        ({"temperature": "1"}, "temperature", "valid number"),
        ({"top_p": 0}, "top_p", "greater than 0"),
        ({"logprobs": 6}, "logprobs", "less than or equal to 5"),
        ({"stop": [""]}, "stop", "each of 1 to 128 characters"),
        ({"stop": ["a"] * 17}, "stop", "at most 16 strings"),
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens", "should be -1 or at least 1"),
        ({"n": 129}, "n", "less than or equal to 128"),
        ({"suffix": "x"}, "suffix", "suffix is not supported"),
        ({"logit_bias": {"1": 5}}, "logit_bias", "not supported"),
        ({"presence_penalty": 0.5}, "presence_penalty", "not supported"),
        ({"best_of": 3, "n": 2}, "best_of", "best_of is not supported"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "for stream: true only"),
        ({"stream": True, "stream_options": {"usage": True}}, "stream_options.usage", "unknown key 'usage'"),
    ],
)
def test_what_cannot_be_had_is_named(keys, param, message):
    error = refused(**({"prompt": "a"} | keys))
    assert error.param == param and message in error.message and "\n" not in error.message


def test_a_long_list_of_what_is_wrong_is_not_looked_at_to_its_end(monkeypatch):
    for prompt in ([True] * 1000, [[]] * 1000, ["a", 1] * 1000):
        with pytest.raises(ValidationError) as caught:
            serving_requests.Body.model_validate({"prompt": prompt})
        assert caught.value.error_count() < 10
    monkeypatch.setattr(serving_requests, "ids_of", None)
    assert "7 texts at once" in refused(prompt=["a"] * 7).message


def test_keys_that_ask_for_nothing_pass():
    nothing = {"suffix": None, "logit_bias": {}, "presence_penalty": 0, "frequency_penalty": 0.0, "best_of": 2, "n": 2}
    assert asked(prompt="a", user="me", stream=True, stream_options={"include_usage": True}, **nothing).usage
    many = {"temperature": 0, "top_k": -1, "min_p": 0, "repetition_penalty": 1, "stop": [], "seed": -1}
    assert asked(prompt="a", **many).options[0] == Options(16, 0.0, seed=2**64 - 1)
    assert [asked(prompt="a", ignore_eos=each).options[0].ends for each in (None, False, True)] == [True, True, False]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b'{"temperature": NaN}', b"[" * 100_000, b"1" * 5000])
def test_what_is_no_request_is_refused(body):
    with pytest.raises(ApiError, match="the body"):
        serving_requests.parse(body)


def test_learned_positions_end():
    model = shape(context_length=32, n_layers=1, positions={"kind": "learned"})
    learned = Skeleton(model, encoding.vocab_size, encoding.end_of_text)
    body = serving_requests.parse(b'{"prompt": "abc", "max_tokens": 29}')
    with pytest.raises(ApiError, match="the prompt has 4 tokens and max_tokens are 29"):
        serving_requests.asked(body, encoding, learned, LIMITS)
    assert serving_requests.asked(body, encoding, SKELETON, LIMITS).options[0].max_new_tokens == 29


def test_of_a_prompt_that_is_too_long_its_end_counts_where_that_is_asked_for():
    text, ids = "".join(chr(97 + number % 26) for number in range(500)), [number % 26 for number in range(500)]
    end = [*text[-32:].encode()]
    assert asked(prompt=text, truncate_prompt_tokens=-1).prompts == [end]
    assert asked(prompt=text, truncate_prompt_tokens=5).prompts == [end[-5:]]
    assert asked(prompt=ids, truncate_prompt_tokens=5).prompts == [ids[-5:]]
    assert asked(prompt="ab", truncate_prompt_tokens=-1).prompts == asked(prompt="ab").prompts
    assert "33 tokens" in refused(prompt=ids, truncate_prompt_tokens=33).message
    learned = Skeleton(
        shape(context_length=32, n_layers=1, positions={"kind": "learned"}), encoding.vocab_size, encoding.end_of_text
    )
    for new, left in ((12, 20), (31, 1)):
        body = serving_requests.Body(prompt=text, max_tokens=new, truncate_prompt_tokens=-1)
        assert serving_requests.asked(body, encoding, learned, LIMITS).prompts == [end[-left:]]


# ---- answers


def pieces_of(ids: list[int], text: str, every: int) -> list[Piece]:
    """Returns the pieces in which a text of bytes may come, the last one with whatever is left."""
    found, given = [], 0
    for end in range(every, len(ids), every):
        sure = len(bytes(ids[:end]).decode(errors="ignore"))
        count = len(text[:sure].encode()) - given
        part = ids[given : given + count]
        found.append(Piece(0, part, text[len(bytes(ids[:given]).decode()) : sure], *described(part), None))
        given += count
    rest = ids[given:]
    return [*found, Piece(0, rest, text[len(bytes(ids[:given]).decode()) :], *described(rest), "length")]


def described(ids: list[int]) -> tuple[list[float], list]:
    return [-1.0] * len(ids), [((token, -1.0), (0xC3, float("-inf"))) for token in ids]


@pytest.mark.parametrize("every", [1, 2, 3, 50])
def test_parts_of_a_choice_make_up_the_text_however_they_are_merged(every):
    text = "aé😀\n"
    for merged in (1, 2, 100):
        choice = Choice(3, Names(encoding), True, "begin ")
        pieces, parts = pieces_of(list(text.encode()), text, every), []
        for start in range(0, len(pieces), merged):
            parts += filter(None, [choice.part(pieces[start : start + merged])])
        assert "".join(part["text"] for part in parts) == "begin " + text
        assert [part["finish_reason"] for part in parts] == [None] * (len(parts) - 1) + ["length"]
        of = {name: [x for part in parts for x in part["logprobs"][name]] for name in parts[0]["logprobs"]}
        assert of["tokens"] == ["a", "", "é", "", "", "", "😀", "\n"]
        assert of["text_offset"] == [0, 1, 1, 2, 2, 2, 2, 3] and len(of["token_logprobs"]) == 8
        assert of["top_logprobs"][1] == {"bytes:\\xc3": -1.0}
        assert of["top_logprobs"][2] == {"bytes:\\xa9": -1.0, "bytes:\\xc3": -9999.0}
        assert {part["index"] for part in parts} == {3}


def test_a_completion_counts_its_tokens_and_sorts_its_choices():
    completion = Completion("cmpl-1", "m", [Choice(n, Names(encoding), False, "") for n in range(2)], 5, False)
    arrived = [(1, Piece(0, [98], "b", [-1.0], [()], "stop")), (0, Piece(0, [97], "a", [-1.0], [()], "end_of_text"))]
    found = json.loads(completion.whole(arrived))
    assert [(each["text"], each["finish_reason"]) for each in found["choices"]] == [("a", "stop"), ("b", "stop")]
    assert found["usage"] == {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
    assert found["object"] == "text_completion" and found["choices"][0]["logprobs"] is None


# ---- the engine


def test_every_text_is_to_the_last_bit_the_one_written_alone():
    prompts = [[1, 2, 3], [4], list(range(30)), [12, 13], [7] * 9]
    plain = Options(max_new_tokens=40, temperature=1.0, logprobs=2)
    options = [
        replace(plain, seed=1, top_p=0.8),
        replace(plain, temperature=0, max_new_tokens=3, logprobs=0),
        replace(plain, seed=3, top_k=5, repetition_penalty=1.3),
        replace(plain, seed=4, min_p=0.01, logprobs=5),
        replace(plain, seed=5, stop=("a",)),
    ]
    steady = engine(3)
    steady.warm_up()
    together = generate(steady, prompts, options)
    assert generate(steady, prompts[::-1], options[::-1]) == together[::-1]
    assert [generate(steady, [prompt], [each])[0] for prompt, each in zip(prompts, options, strict=True)] == together


def test_a_steady_engine_has_one_program_for_a_step_and_one_for_each_size_of_prompt():
    steady = engine()
    steady.warm_up()
    assert len(steady.compiled) == 3  # 16 and 32 positions, a step
    for size in (1, 2, 16, 17, 18, 32):
        steady.admit([1] * size, Options(2, 0.5, top_k=size, logprobs=size % 6))
        while steady.step():
            pass
    assert len(steady.compiled) == 3


# ---- a server


class Served:
    """A server in this process; as a context it is ready in it and stopped after it."""

    def __init__(self, own: SteadyEngine, **how):
        self.lines: list[str] = []
        self.metrics = Metrics()
        self.writer = Writer(own, LIMITS.queue, self.metrics, self.lines.append)
        usual = {"token": None, "hosts": frozenset({"127.0.0.1"}), "origins": (), "limits": LIMITS}
        self.service = Service(
            model={"id": "m"},
            encoding=encoding,
            writer=self.writer,
            metrics=self.metrics,
            page="<style>p{}</style><script>1</script>",
            log=self.lines.append,
            **usual | how,
        )
        place = serving_connections.bind("127.0.0.1", 0)
        place.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # what is not read stays in the server
        self.port = place.getsockname()[1]
        self.server = serving_connections.Server(serving_app.make_app(self.service), self.writer.stop)
        self.thread = threading.Thread(target=self.server.run, args=([place],))
        self.thread.start()

    def ask(self, path: str, body: dict | bytes | None = None, method: str | None = None, **headers: str):
        """Returns status, headers and content of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        connection.request(method or ("GET" if data is None else "POST"), path, data, headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, content

    def error(self, *words, **headers) -> tuple[int, str, str | None, dict]:
        """Returns status, message, code and headers of an answer that is an error."""
        status, sent, content = self.ask(*words, **headers)
        found = json.loads(content)["error"]
        assert set(found) == {"message", "type", "param", "code"} and sent["x-request-id"]
        return status, found["message"], found["code"], sent

    def __enter__(self) -> "Served":
        self.until("ready")
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    def until(self, state: str) -> None:
        while self.writer.state != state:
            time.sleep(0.01)

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(20)
        self.writer.join(20)
        assert not self.thread.is_alive() and not self.writer.is_alive()


@pytest.fixture(scope="module")
def served():
    with Served(engine()) as made:
        yield made


@pytest.fixture(scope="module")
def guarded():
    """A server with a token, and a page of another origin that may ask."""
    with Served(engine(1), token="hush", hosts=None, origins=("https://a.example",)) as made:
        yield made


def test_models_and_health_are_told(served):
    assert json.loads(served.ask("/v1/models")[2]) == {"object": "list", "data": [{"id": "m"}]}
    assert json.loads(served.ask("/v1/models/m")[2]) == {"id": "m"}
    assert served.error("/v1/models/x")[:3] == (404, "the model 'x' is not here; 'm' is", "model_not_found")
    assert served.ask("/health")[0] == 200
    status, headers, content = served.ask("/")
    assert (status, content) == (200, b"<style>p{}</style><script>1</script>")
    policy = headers["content-security-policy"]
    # sums as browsers reckon them: printf 1 | openssl dgst -sha256 -binary | base64
    assert "script-src 'sha256-a4ayc/80/OGda4BO/1o/V0etpOqiLx1JwB5S3beHW0s='" in policy and "'none'" in policy


def test_a_text_is_the_generators_whole_and_streamed(served):
    keys = {"prompt": "ab", "max_tokens": 20, "seed": 3, "logprobs": 2, "model": "m"}
    options = replace(Options(20, 1.0, seed=3), logprobs=2)
    expected = generate(engine(), [[encoding.first, 97, 98]], [options])[0]
    whole = json.loads(served.ask("/v1/completions", keys)[2])["choices"][0]
    assert whole["text"] == expected.text == "".join(whole["logprobs"]["tokens"])
    assert whole["logprobs"]["token_logprobs"] == expected.logprobs
    _, headers, content = served.ask(
        "/v1/completions", keys | {"stream": True, "stream_options": {"include_usage": True}}
    )
    assert headers["content-type"].startswith("text/event-stream")
    *events, end, nothing = content.decode().split("\n\n")
    assert (end, nothing) == ("data: [DONE]", "")
    *parts, last = [json.loads(event.removeprefix("data: ")) for event in events]
    choices = [part["choices"][0] for part in parts]
    assert "".join(choice["text"] for choice in choices) == expected.text
    assert [each for choice in choices for each in choice["logprobs"]["token_logprobs"]] == expected.logprobs
    assert [choice["finish_reason"] for choice in choices][-2:] == [None, "length"]
    assert last["choices"] == [] and last["usage"]["completion_tokens"] == 20 and parts[0]["usage"] is None


def test_the_end_of_a_document_ends_a_text_unless_that_is_ignored(served):
    # it is one of 257 tokens, all about as likely
    keys = {"prompt": "ab", "max_tokens": 100, "seed": 1, "temperature": 3, "logprobs": 0}
    texts = [json.loads(served.ask("/v1/completions", keys | {"seed": seed})[2])["choices"][0] for seed in range(8)]
    seed, short = next((seed, each) for seed, each in enumerate(texts) if each["finish_reason"] == "stop")
    whole = json.loads(served.ask("/v1/completions", keys | {"seed": seed, "ignore_eos": True})[2])["choices"][0]
    assert whole["finish_reason"] == "length" and len(whole["logprobs"]["tokens"]) == 100
    assert whole["text"].startswith(short["text"]) and "".join(whole["logprobs"]["tokens"]) == whole["text"]


def test_errors_have_the_form_that_clients_know(served):
    big = {"prompt": "x" * 3000}
    assert served.error("/v1/completions", big)[:3] == (413, "the body may have 2,000 bytes", "body_too_large")
    assert served.error("/v1/completions", {"prompt": "a", "model": "gpt"})[2] == "model_not_found"
    assert served.error("/v1/completions")[::3][0] == 405
    assert served.error("/v1/completions")[3]["allow"] == "POST"
    assert "a model is asked at /v1/completions" in served.error("/v1/chat/completions", {})[1]
    assert served.error("/v1/completions", b"{")[0] == 400
    assert served.error("/", Host="evil.example:80")[2] == "unknown_host"
    assert served.error("/v1/completions", {"prompt": "a"}, Origin="http://evil.example")[2] == "unknown_origin"
    own = f"http://127.0.0.1:{served.port}"
    assert served.ask("/v1/completions", {"prompt": "a"}, Origin=own)[0] == 200


def test_a_token_is_asked_for_and_other_origins_are_let_in_by_name(guarded):
    status, _, code, headers = guarded.error("/v1/models")
    assert (status, code, headers["www-authenticate"]) == (401, "invalid_api_key", "Bearer")
    for wrong in ("hush", "Basic hush", "Bearer hus", "Bearer é"):
        assert guarded.error("/v1/models", Authorization=wrong)[0] == 401
    assert guarded.error("/metrics")[0] == 401
    assert guarded.ask("/")[0] == 200 and guarded.ask("/v1/models", **TOKEN)[0] == 200
    allowed = guarded.ask("/v1/models", Origin="https://a.example", **TOKEN)
    assert allowed[0] == 200 and allowed[1]["access-control-allow-origin"] == "https://a.example"
    before = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    before |= {"Access-Control-Request-Headers": "authorization,content-type,x-stainless-lang"}  # OpenAI's in a page
    assert guarded.ask("/v1/completions", method="OPTIONS", **before)[0] == 200
    assert "Retry-After" in allowed[1]["access-control-expose-headers"]
    status, headers, _ = guarded.ask("/v1/models", Origin="https://b.example", **TOKEN)
    assert status == 403 and "access-control-allow-origin" not in headers


def test_logs_and_metrics_hold_no_prompt(served):
    assert served.ask("/v1/completions", {"prompt": "secret", "max_tokens": 2})[0] == 200
    assert served.ask("/v1/x\n%0asecret?prompt=secret".replace("\n", ""))[0] == 404
    lines = [line for line in served.lines if "POST" in line]
    assert any(line.endswith(" s, 7 + 2 tokens") for line in lines) and not any("secret" in line for line in lines)
    assert all("\n" not in line for line in served.lines)
    assert served.ask("/v1/models/m")[0] == 200
    text = served.ask("/metrics")[2].decode()
    assert 'path="/v1/models/m",status="200"' in text
    assert 'makelm_requests_total{path="/v1/completions",status="200"}' in text and "secret" not in text
    assert 'path="other"' in text and "makelm_generated_tokens_total" in text
    assert "makelm_time_to_first_token_seconds_bucket" in text


def test_a_full_queue_says_when_to_come_again_and_who_leaves_frees_slots(served, monkeypatch):
    step, goes_on = served.writer.engine.step, threading.Event()
    # no text ends before all are here, however slow this machine is
    monkeypatch.setattr(served.writer.engine, "step", lambda: goes_on.wait(60) and step())
    long = {"prompt": "a", "max_tokens": 512, "n": 4}
    leavers = [http.client.HTTPConnection("127.0.0.1", served.port) for _ in range(2)]
    for leaver, waiting in zip(leavers, (2, 6), strict=True):  # the first takes both slots
        leaver.request("POST", "/v1/completions", json.dumps(long))
        while len(served.writer.live) < 2 or len(served.writer.waiting) != waiting:
            time.sleep(0.001)
    status, message, code, headers = served.error("/v1/completions", long)
    assert (status, code) == (429, "queue_full") and 1 <= int(headers["retry-after"]) <= 30
    assert "texts wait already; try again in" in message
    for leaver in leavers:
        leaver.close()
    goes_on.set()
    deadline = time.monotonic() + 30
    while served.writer.live or served.writer.waiting or sum(" 499 " in line for line in served.lines) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not served.writer.answers


def test_time_that_is_up_and_an_engine_that_dies_are_told():
    slow, chunks = engine(1), threading.Semaphore(0)
    made = Served(slow, limits=replace(LIMITS, seconds=3))
    made.until("ready")
    write, long = slow.step, {"prompt": [1], "max_tokens": 500, "temperature": 0}
    slow.step = lambda: (any(slow.slots) and chunks.acquire(), write())[1]  # as many as it may
    status, message, code, headers = made.error("/v1/completions", long)
    assert (status, code, headers["x-should-retry"]) == (504, "timeout", "false") and "not done after 3 s" in message
    chunks.release(2)  # the one that was left, and one
    content = made.ask("/v1/completions", long | {"stream": True})[2].decode()
    *parts, end, _ = content.split("\n\n")
    assert parts and json.loads(end.removeprefix("data: "))["error"]["code"] == "timeout"
    slow.step = lambda: 1 / 0
    chunks.release()
    assert made.error("/v1/completions", {"prompt": "a"})[::2] == (500, "dead")
    assert made.ask("/health")[0] == 503 and made.error("/v1/completions", {"prompt": "a"})[2] == "dead"
    made.stop()


def test_a_body_that_is_slow_and_a_head_that_never_ends_are_not_waited_for(served, monkeypatch):
    monkeypatch.setattr(serving_app, "BODY_SECONDS", 0.2)
    monkeypatch.setattr(serving_connections, "IDLE", 0.5)
    head = b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n"
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as slow:
        slow.sendall(head + b"\r\n{")
        found = b"".join(iter(lambda: slow.recv(4096), b""))  # until the server ends the connection
        assert found.startswith(b"HTTP/1.1 408") and b"body_too_slow" in found
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as endless:
        started = time.monotonic()
        with suppress(BrokenPipeError, ConnectionResetError):
            for letter in itertools.cycle(head):
                endless.sendall(bytes([letter]))
                time.sleep(0.05)
                assert time.monotonic() - started < 5


def test_an_answer_that_nobody_reads_is_not_kept(served, monkeypatch):
    monkeypatch.setattr(serving_connections, "IDLE", 0.3)
    body = json.dumps({"prompt": "a", "max_tokens": 512, "n": 4, "logprobs": 5}).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n" % len(body)
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", served.port))
        before = len(served.lines)
        deaf.sendall(head + body)
        deadline = time.monotonic() + 60
        while len(served.lines) == before or served.server.server_state.connections:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert " 200 " in served.lines[-1]


def test_a_server_that_cannot_begin_says_why_in_one_line(served, tmp_path, capsys, monkeypatch):
    run = make_run(tmp_path / "results")
    (tmp_path / "empty").write_text("\n")
    mine, free = ["--run", str(run)], ["--port", "0"]
    cases = [
        (["--run", str(tmp_path / "none"), *free], "model.safetensors is missing; run train_model"),
        ([*mine, "--port", str(served.port)], "Address already in use"),
        ([*mine, "--port", "70000"], "--port: 70000 is not from 0 to 65535"),
        ([*mine, *free, "--host", "0.0.0.0"], "others can reach it, so set MAKELM_TOKEN or --token-file"),
        ([*mine, *free, "--host", "not.a.name.invalid"], "cannot listen on not.a.name.invalid"),
        ([*mine, *free, "--host", 70 * "x"], "cannot listen on xxx"),
        ([*mine, *free, "--token-file", str(tmp_path / "empty")], "should be one word of ASCII characters"),
        ([*mine, *free, "--token-file", str(tmp_path)], "--token-file: cannot read"),
        *(
            ([*mine, *free, "--allow-origin", origin], f"--allow-origin: '{origin}' should be a page's origin")
            for origin in ("lab.example", "*", "https://lab.example/")
        ),
        ([*mine, *free, "--tokenizer", str(tmp_path)], "is missing; run train_tokenizer"),
    ]

    def said(words: list[str]) -> str:
        assert serving.main([*words, "--cores", "2"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    for words, message in cases:
        assert message in said(words)
    (tmp_path / "results/train_tokenizer/bytes/metadata.json").unlink()
    assert "no tokenizer in" in said([*mine, *free])
    monkeypatch.setenv("MAKELM_TOKEN", " ")
    assert "the token of MAKELM_TOKEN should be" in said([*mine, *free])
