"""A trained run as a server: its flags, and how the parts come together. Makes no artifact."""

import argparse
import ipaddress
import os
import re
import socket
import sys
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

from makelm import cli, interactive, pages, programs, serving_app, serving_connections, weights
from makelm.errors import DONE, USER, UserError
from makelm.model import Skeleton
from makelm.serving_answers import Names
from makelm.serving_engine import CHUNK, SteadyEngine, Writer
from makelm.serving_metrics import Metrics
from makelm.serving_requests import ALTERNATIVES, Limits
from makelm.serving_service import Service
from makelm.tokenizer import Tokenizer

TOKEN = "MAKELM_TOKEN"
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def arguments() -> argparse.ArgumentParser:
    """Returns the arguments of a server."""
    parser = argparse.ArgumentParser("serve_model.py", description="Serves a trained run.", allow_abbrev=False)
    parser.add_argument("--run", type=Path, required=True, help="folder of a trained run (results/train_model/NAME)")
    parser.add_argument("--tokenizer", type=Path, help="folder of its tokenizer (default: found beside train_model/)")
    where = parser.add_argument_group("where, and for whom")
    where.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; all but this machine's own need a token"
    )
    where.add_argument("--port", type=int, default=8000, help="0: any that is free (default: 8000)")
    where.add_argument("--token-file", type=Path, help=f"file with the token that clients must show (or set {TOKEN})")
    where.add_argument(
        "--allow-origin", action="append", default=[], metavar="URL", help="whose pages may ask; repeatable"
    )
    much = parser.add_argument_group("how much")
    much.add_argument("--slots", type=whole, default=8, help="texts that are written at the same time (default: 8)")
    much.add_argument("--queue", type=whole, default=64, help="texts that wait for a slot, at most (default: 64)")
    much.add_argument("--max-tokens", type=whole, default=1024, help="of one text (default: 1024)")
    much.add_argument("--max-body", type=whole, default=1 << 20, help="bytes of a request (default: 1048576)")
    much.add_argument("--timeout", type=whole, default=120, help="seconds until a request is answered (default: 120)")
    much.add_argument("--cores", type=whole, default=os.cpu_count(), help="CPU cores to use (default: all)")
    return parser


def whole(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def main(words: list[str]) -> int:
    """Serves until it is told to, and ends the process; returns the exit code where it cannot begin."""
    args = arguments().parse_args(words)
    try:
        cli.limit_cores(args.cores)
        programs.keep(args.cores, programs.of_workflow(args.run))
        token = token_of(args)
        check_origins(args.allow_origin)
        place = bind(args, token)
        service = open_service(args, token)
    except UserError as error:
        print(f"serve_model: {error}", file=sys.stderr)
        return USER
    except KeyboardInterrupt:
        return DONE
    host, port = place.getsockname()[:2]
    say(f"{service.id} at http://{f'[{host}]' if ':' in host else host}:{port}/")
    server = serving_connections.Server(serving_app.make_app(service), service.writer.stop)
    server.serve_on(place)
    say("ended")
    # nothing is to be saved, and what JAX does at the end has been seen to hang
    os._exit(DONE)


def say(text: str) -> None:
    """Writes a line for whoever looks after the server."""
    print(f"{datetime.now():%Y-%m-%d %H:%M:%S} {text}", file=sys.stderr, flush=True)


def token_of(args: argparse.Namespace) -> str | None:
    """Returns the token that clients must show, if any. Not a flag: all users of a machine can read those."""
    if args.token_file is None:
        token = os.environ.get(TOKEN)
    else:
        try:
            token = args.token_file.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--token-file: cannot read {args.token_file}: {error}") from None
    token = token and token.strip()
    if token is not None and not re.fullmatch(r"[!-~]+", token):
        raise UserError(f"the token of {args.token_file or TOKEN} should be one word of ASCII characters")
    return token


def check_origins(origins: list[str]) -> None:
    """Raises UserError where a browser would never say that a page is from there."""
    for origin in origins:
        if not re.fullmatch(r"null|[a-z-]+://[^/?#@*\sA-Z]+", origin):
            raise UserError(f"--allow-origin: {origin!r} should be a page's origin, such as https://lab.example")


def bind(args: argparse.Namespace, token: str | None) -> socket.socket:
    """Returns the socket to serve on. Raises UserError where there can be none, or should not."""
    place = serving_connections.bind(args.host, args.port)
    if token is None and not ipaddress.ip_address(place.getsockname()[0]).is_loopback:
        place.close()
        raise UserError(f"--host {args.host}: others can reach it, so set {TOKEN} or --token-file to a secret")
    return place


def open_service(args: argparse.Namespace, token: str | None) -> Service:
    """Returns the service of a run. Raises UserError where it is not whole."""
    trained, encoding = interactive.open_run(args.run, args.tokenizer)
    skeleton = Skeleton(trained.model, trained.vocab_size, trained.end_of_text)
    engine = SteadyEngine(
        skeleton, trained.parameters, encoding.tokens, encoding.end_of_text, slots=args.slots, chunk=CHUNK
    )
    metrics = Metrics()
    writer = Writer(engine, args.queue, metrics, say)
    metrics.watch("queue_texts", "Texts that wait for a slot", lambda: len(writer.waiting))
    metrics.watch("slots_used", "Slots in which a text is written", lambda: len(writer.live))
    metrics.watch("slots", "Slots there are", lambda: len(engine.slots))
    # another host's page that has its name point here would be this server's own, to a browser
    hosts = {*LOOPBACK, args.host, *(urlsplit(origin).hostname for origin in args.allow_origin)}
    name = args.run.resolve().name
    return Service(
        model=describe(name, args, trained, encoding),
        encoding=encoding,
        writer=writer,
        metrics=metrics,
        limits=Limits(args.max_tokens, args.queue, args.max_body, args.timeout),
        page=pages.render("serve_page.html.j2", run=name),
        token=token,
        hosts=frozenset(hosts) if token is None else None,
        origins=tuple(args.allow_origin),
        log=say,
    )


def describe(name: str, args: argparse.Namespace, trained: weights.Weights, encoding: Tokenizer) -> dict:
    """Returns what /v1/models says of a model."""
    return {
        "id": name,
        "object": "model",
        "created": int((args.run / weights.FILE).stat().st_mtime),
        "owned_by": "makelm",
        "context_length": trained.model.context_length,
        "parameters": sum(int(each.size) for each in trained.parameters.values()),
        "vocab_size": trained.vocab_size,
        "tokenizer": encoding.digest,
        "end_of_text": None if encoding.end_of_text is None else Names(encoding)(encoding.end_of_text),
        "max_tokens": args.max_tokens,
        "max_logprobs": ALTERNATIVES,
    }
