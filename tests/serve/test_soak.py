"""Two hundred clients at a time for a minute: some read slowly, some leave. Every answer is the one given alone.

`make test-serve` runs these.
"""

import asyncio
import json
import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import served as serving

serving.need_serving()

CLIENTS, SECONDS = 200, 60
SETTLED = 15  # seconds after which memory should grow no more
GROWTH = 24 << 20  # bytes: an allocator's ups and downs
QUESTIONS = 48
HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"


def question(number: int) -> dict:
    """Returns one of the questions, each with other options."""
    rng = random.Random(number)
    text = "".join(rng.choices("abcdef \n\té😀", k=rng.randrange(60)))
    body = {"model": "small", "prompt": text, "max_tokens": rng.choice([0, 1, 7, 8, 30, 90, 200]), "seed": number}
    body |= {"temperature": rng.choice([0, 0.5, 1, 1.5]), "stream": bool(rng.getrandbits(1))}
    more = {
        "top_k": 5,
        "top_p": 0.8,
        "min_p": 0.05,
        "repetition_penalty": 1.3,
        "logprobs": 5,
        "n": 2,
        "echo": True,
        "stop": ["a", "\ufffd "],
    }
    return body | {key: value for key, value in more.items() if rng.random() < 0.4}


def choices_of(content: bytes, stream: bool) -> list:
    """Returns text, log-probabilities and reason of each choice of an answer."""
    if not stream:
        return [[c["text"], c["logprobs"], c["finish_reason"]] for c in json.loads(content)["choices"]]
    *events, end, _ = content.decode().split("\n\n")
    assert end == "data: [DONE]"
    found: dict[int, list] = {}
    for each in events:
        for part in json.loads(each.removeprefix("data: "))["choices"]:
            text, logprobs, _ = found.setdefault(part["index"], ["", None, None])
            if part["logprobs"]:
                logprobs = {name: (logprobs or {}).get(name, []) + more for name, more in part["logprobs"].items()}
            found[part["index"]] = [text + part["text"], logprobs, part["finish_reason"]]
    return [found[index] for index in sorted(found)]


class Crowd:
    """The clients, each with one connection after the other, and what became of their requests."""

    def __init__(self, port: int, alone: list):
        self.port, self.alone, self.count = port, alone, Counter()
        self.end = time.monotonic() + SECONDS

    async def client(self, name: int) -> None:
        """Asks until the time is over."""
        rng = random.Random(name)
        while time.monotonic() < self.end:
            number, manner = (
                rng.randrange(QUESTIONS),
                rng.choice(["plain", "plain", "slow", "leaves", "leaves at once"]),
            )
            status, headers, content = await self.ask(question(number), manner, rng)
            if status == 429:
                await asyncio.sleep(min(int(headers["retry-after"]), 2) * (0.5 + rng.random()))
            elif status == 200:
                assert choices_of(content, question(number)["stream"]) == self.alone[number], question(number)
                manner = f"{manner}, right"
            self.count[status or "left"] += 1
            self.count[manner] += 1

    async def ask(self, body: dict, manner: str, rng: random.Random) -> tuple[int | None, dict, bytes]:
        """Returns status, headers and content of an answer; nothing where the client left before its end."""
        # a buffer of so few bytes makes the server wait for a slow reader
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=2048)
        data = json.dumps(body).encode()
        try:
            writer.write(HEAD % len(data) + data)
            if manner == "leaves at once":
                await asyncio.sleep(rng.random() * 0.1)
                return None, {}, b""
            top = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            if manner == "leaves":
                await reader.read(200)
                return None, {}, b""
            content = b""
            while part := await reader.read(512 if manner == "slow" else 65536):
                content += part
                if manner == "slow":
                    await asyncio.sleep(0.02)
        finally:
            writer.close()
        headers = dict(line.lower().split(": ", 1) for line in top[1:] if line)
        return int(top[0].split()[1]), headers, whole(content, headers)


def whole(content: bytes, headers: dict) -> bytes:
    """Returns the body that came in chunks or not."""
    if headers.get("transfer-encoding") != "chunked":
        return content
    parts = []
    while content:
        size, _, content = content.partition(b"\r\n")
        parts.append(content[: int(size, 16)])
        content = content[int(size, 16) + 2 :]
    return b"".join(parts)


async def soak(served: serving.Server, alone: list) -> tuple[Counter, list[int]]:
    """Returns what became of the requests, and the memory second after second."""
    crowd, memory = Crowd(served.port, alone), []
    clients = [asyncio.ensure_future(crowd.client(name)) for name in range(CLIENTS)]
    while not all(client.done() for client in clients):
        await asyncio.sleep(1)
        memory.append(served.memory())
    for client in clients:
        client.result()
    return crowd.count, memory


def test_two_hundred_clients_get_the_answers_given_alone_and_leave_nothing_behind(served):
    alone = []
    for number in range(QUESTIONS):
        status, _, content = served.ask("/v1/completions", question(number))
        assert status == 200
        alone.append(choices_of(content, question(number)["stream"]))
    assert len({json.dumps(each) for each in alone}) > QUESTIONS / 2
    with ThreadPoolExecutor(1) as pool:  # in this one, the browser of other tests may have its loop
        count, memory = pool.submit(asyncio.run, soak(served, alone)).result()
    print(dict(count), [each >> 20 for each in memory])
    assert set(count) & {200, 429, "left", "slow, right", "plain, right"} == {
        200,
        429,
        "left",
        "slow, right",
        "plain, right",
    }
    assert not set(count) & {400, 500, 503, 504}
    assert max(memory[-5:]) - memory[SETTLED] < GROWTH, [each >> 20 for each in memory]
    deadline = time.monotonic() + 10
    while served.metric("slots_used") or served.metric("queue_texts"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
