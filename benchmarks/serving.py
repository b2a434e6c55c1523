"""How many requests a served model answers and how soon, beside its generator by itself, without HTTP.

    python benchmarks/serving.py [--run results/train_model/stdlib] [--requests 64] [--rounds 5]

Each client asks for 64 tokens after 32, streamed, again and again, each time over a new connection. The server, the
generator in slots as the server has them, and the generator as stages use it (whose programs fit who is there) take
turns, each in a process of its own, with the same texts to write. The clients share the cores with the server.
"""

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles

from recording import Table, record
from turns import OWN, Worker, by_turns, ratio

ROOT = Path(__file__).resolve().parent.parent
LOADS = ((1, 8), (8, 8), (32, 8), (32, 32))  # clients, slots
PROMPT, NEW, TEMPERATURE = list(range(100, 132)), 64, 0.8
HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"


class Server:
    """A server and its clients, to be given turns as turns.Worker is."""

    def __init__(self, run: Path, clients: int, slots: int):
        """Starts it; returns when it has compiled everything."""
        self.clients, self.first, self.tokens = clients, [], 0
        command = [sys.executable, ROOT / "scripts/serve_model.py", "--run", run, "--port", "0", "--slots", str(slots)]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        with tempfile.NamedTemporaryFile("w+") as log:
            self.process = subprocess.Popen(command, stderr=log, env=environment | OWN)
            while "; ready\n" not in (said := Path(log.name).read_text()):
                assert self.process.poll() is None, said
                time.sleep(0.1)
        self.port = int(re.search(r" at http://\S+:(\d+)/", said)[1])

    def __call__(self, amount: int) -> float:
        """Returns the seconds that so many requests took; `first` are those to their first tokens."""
        self.first, self.tokens = [], 0
        started = time.monotonic()
        asyncio.run(self.ask_all(amount))
        return time.monotonic() - started

    async def ask_all(self, amount: int) -> None:
        waiting = list(reversed(range(amount)))

        async def client() -> None:
            while waiting:
                await self.ask(waiting.pop())

        await asyncio.gather(*(client() for _ in range(self.clients)))

    async def ask(self, seed: int) -> None:
        """Asks once."""
        body = {"prompt": PROMPT, "max_tokens": NEW, "temperature": TEMPERATURE, "seed": seed, "stream": True}
        data = json.dumps(body | {"stream_options": {"include_usage": True}}).encode()
        started = time.monotonic()
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(HEAD % len(data) + data)
        await reader.readuntil(b"data: ")
        self.first.append(time.monotonic() - started)
        rest = await reader.read()
        self.tokens += int(re.search(rb'"completion_tokens":(\d+)', rest)[1])
        writer.close()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


def main() -> None:
    """Measures and records."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--run", type=Path, default=ROOT / "results/train_model/stdlib", help="a trained run")
    parser.add_argument("--requests", type=int, default=64, help="in each round")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    heads = (
        "first token, ms",
        "95 %",
        "tokens/s",
        "generator in such slots",
        "generator of the stages",
        "server's share",
    )
    table, results = Table("clients", "slots", "requests/s", *heads), []
    for clients, slots in LOADS:
        task = {"run": str(options.run), "slots": slots, "clients": clients, "prompt": PROMPT, "new": NEW}
        task |= {"temperature": TEMPERATURE}
        workers = {
            "server": Server(options.run, clients, slots),
            "steady": Worker("makelm_generator", ROOT / ".venv/bin/python", task | {"steady": True}, OWN),
            "plain": Worker("makelm_generator", ROOT / ".venv/bin/python", task | {"steady": False}, OWN),
        }
        seconds, firsts = measure(workers, options.requests, options.rounds)
        tokens = workers["server"].tokens
        for worker in workers.values():
            worker.stop()
        found = {
            "clients": clients,
            "slots": slots,
            "requests_per_second": options.requests / median(seconds["server"]),
            "first_token_ms": 1e3 * median(firsts),
            "first_token_ms_95": 1e3 * quantiles(firsts, n=20)[-1],
            "tokens_per_second": {who: tokens / median(each) for who, each in seconds.items()},
            "share": ratio(seconds["steady"], seconds["server"]),
        }
        results.append(found)
        rates = found["tokens_per_second"]
        cells = [
            f"{found['requests_per_second']:.1f}",
            f"{found['first_token_ms']:.0f}",
            f"{found['first_token_ms_95']:.0f}",
        ]
        cells += [f"{rates[who]:,.0f}" for who in ("server", "steady", "plain")]
        table.add([clients, slots, *cells, f"**{found['share']:.2f}**"])
        print(found, flush=True)
    record("serving", results, table)


def measure(workers: dict, amount: int, rounds: int) -> tuple[dict[str, list[float]], list[float]]:
    """Returns each worker's seconds in each round, and all times to first tokens."""
    firsts, server = [], workers["server"]

    def noted(amount: int) -> float:
        seconds = server(amount)
        firsts.extend(server.first)
        return seconds

    seconds = by_turns(workers | {"server": noted}, amount, rounds)
    return seconds, firsts[amount:]  # the first round is thrown away


if __name__ == "__main__":
    main()
