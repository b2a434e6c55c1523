"""A trained run to be talked to: what is typed is written on, and shown as it comes. Makes no artifact."""

import argparse
import contextlib
import io
import os
import re
import signal
import sys
from collections.abc import Generator
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from makelm import cli, programs, prompts, tokenizer, weights
from makelm.config_asking import MinP, RepetitionPenalty, Temperature, TopP
from makelm.config_types import Count, Seed
from makelm.errors import DONE, USER, UserError
from makelm.generate import Engine, Options
from makelm.model import Skeleton
from makelm.pages import visible
from makelm.progress import forgive

HELP = "type a text to be written on; Ctrl-C stops an answer, Ctrl-D ends; \\n in it is a new line"
CHUNK = 8  # tokens between two looks: people see each
BOUNDS = {
    "temperature": Temperature,
    "top_k": Count,
    "top_p": TopP,
    "min_p": MinP,
    "repetition_penalty": RepetitionPenalty,
    "max_new_tokens": Annotated[Count, Field(lt=2**31)],
    "seed": Seed,
}


def arguments() -> argparse.ArgumentParser:
    """Returns the arguments of a conversation."""
    more = "Without --run it is a stage of the workflow, of which `sample_model.py --help` tells."
    parser = argparse.ArgumentParser("sample_model.py", description=__doc__, epilog=more, allow_abbrev=False)
    name = "results/train_model/NAME"
    parser.add_argument("--run", type=Path, required=True, metavar=name, help="folder of a trained run")
    parser.add_argument("--tokenizer", type=Path, help="folder of its tokenizer (default: found beside train_model/)")
    parser.add_argument("--prompt", help="write on from this once, and end")
    parser.add_argument("--temperature", type=float, default=0.8, help="0: always the likeliest token (default: 0.8)")
    parser.add_argument("--top-k", type=int, help="draw from the k likeliest only")
    parser.add_argument("--top-p", type=float, help="draw from the likeliest that together have this probability")
    parser.add_argument("--min-p", type=float, help="draw from those that have this share of the likeliest one's")
    parser.add_argument("--repetition-penalty", type=float, help="above 1: what stands there is less likely")
    parser.add_argument("--max-new-tokens", type=int, default=200, help="(default: 200)")
    parser.add_argument("--seed", type=int, help="the same one writes the same (default: another each time)")
    stop_help = "a string before which an answer ends, \\n in it a new line; repeatable"
    parser.add_argument("--stop", type=typed, action="append", default=[], help=stop_help)
    parser.add_argument("--cores", type=int, default=os.cpu_count(), help="CPU cores to use (default: all)")
    return parser


def typed(text: str) -> str:
    """Returns what a line that a person typed stands for: it cannot hold a line end itself."""
    return text.replace("\\n", "\n")


def main(words: list[str]) -> int:
    """Runs a conversation and returns the exit code."""
    args = arguments().parse_args(words)
    forgive(sys.stdout)
    try:
        cli.limit_cores(args.cores)
        programs.keep(args.cores, programs.of_workflow(args.run))
        options = options_of(args)
        trained, encoding = open_run(args.run, args.tokenizer)
        skeleton = Skeleton(trained.model, trained.vocab_size, trained.end_of_text)
        engine = Engine(skeleton, trained.parameters, encoding.tokens, encoding.end_of_text, slots=1, chunk=CHUNK)
        if args.prompt is not None:
            check_text("--prompt", args.prompt)
            show(answer(engine, encoding, args.prompt, options))
        else:
            converse(engine, encoding, options, fresh=args.seed is None)
    except UserError as error:
        print(f"sample_model: {error}", file=sys.stderr)
        return USER
    except KeyboardInterrupt:
        print()
    except BrokenPipeError:  # nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return DONE


def options_of(args: argparse.Namespace) -> Options:
    """Returns the options that flags give. Raises UserError where a number is out of its bounds."""
    given = {field.name: getattr(args, field.name) for field in fields(Options) if hasattr(args, field.name)}
    for name, kind in BOUNDS.items():
        try:
            TypeAdapter(kind | None).validate_python(given[name])
        except ValidationError as error:
            message = error.errors()[0]["msg"]
            flag = name.replace("_", "-")
            raise UserError(f"--{flag}: {message[:1].lower()}{message[1:]}, got {given[name]}") from None
    for text in args.stop:
        check_text("--stop", text)
    if not all(args.stop):
        raise UserError("--stop: an empty string would end every answer")
    seed = fresh_seed() if args.seed is None else args.seed
    return Options(**given | {"seed": seed, "stop": tuple(args.stop)})


def check_text(said: str, text: str) -> None:
    """Raises UserError where a text holds bytes that are not UTF-8, which Python keeps as halves of surrogate pairs."""
    if odd := re.search("[\udc80-\udcff]", text):
        byte = ord(odd[0]) - 0xDC00
        raise UserError(f"{said} is not UTF-8: there is a byte 0x{byte:02x} after {text[: odd.start()][-20:]!r}")


def fresh_seed() -> int:
    return int.from_bytes(os.urandom(4), "little")


def open_run(run: Path, folder: Path | None) -> tuple[weights.Weights, tokenizer.Tokenizer]:
    """Returns a run's weights and its tokenizer. Raises UserError where one of them cannot be found."""
    trained = weights.load(run / weights.FILE)
    encoding = tokenizer.load(folder or find_tokenizer(run, trained.tokenizer))
    weights.check_tokenizer(trained, encoding.digest, str(folder))
    return trained, encoding


def find_tokenizer(run: Path, digest: str) -> Path:
    """Returns the folder of the tokenizer with this digest, among those beside the folder that a run stands in."""
    place = run.resolve().parent.parent / "train_tokenizer"
    for path in sorted(place.glob("*/metadata.json")):
        with contextlib.suppress(UserError):
            if tokenizer.load(path.parent).digest == digest:
                return path.parent
    raise UserError(f"no tokenizer in {place} is the one of {run} ({digest[:12]}); name its folder with --tokenizer")


def answer(engine: Engine, encoding: tokenizer.Tokenizer, text: str, options: Options) -> Generator[str, None, None]:
    """Yields what is written after a text, as it comes. Raises UserError where it cannot be written on."""
    slot = engine.admit(prompts.encoded(text, encoding, "the prompt").ids, options)
    try:
        while engine.slots[slot] is not None:
            yield from (piece.text for piece in engine.step())
    finally:
        engine.release(slot)


def show(pieces: Generator[str, None, None]) -> None:
    """Prints pieces of a text as they come, until Ctrl-C: it ends the text between two steps, not within one.

    A terminal would obey control characters, which a model writes as it read them; a file or program gets them.
    """
    pressed, form = [], visible if sys.stdout.isatty() else str
    before = signal.signal(signal.SIGINT, lambda *_: pressed.append(True))
    try:
        for piece in pieces:
            print(form(piece), end="", flush=True)
            if pressed:
                break
    finally:
        pieces.close()
        signal.signal(signal.SIGINT, before)
    print()


def converse(engine: Engine, encoding: tokenizer.Tokenizer, options: Options, fresh: bool) -> None:
    """Writes on from each line that is typed or piped in, until there is none; `fresh`: each time with another seed.

    What goes to a file or program is the answers alone.
    """
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  lines can be edited and called back
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # a line that is not UTF-8 is one to complain of, not the end
    typing = sys.stdin.isatty()
    if typing:
        print(HELP, file=sys.stderr)
    asks = "> " if typing and sys.stdout.isatty() else ""
    while True:
        try:
            line = input(asks)
        except KeyboardInterrupt:
            print()
            continue
        except EOFError:
            if asks:
                print()
            return
        try:
            check_text("the line", line)
            show(answer(engine, encoding, typed(line), options))
        except UserError as error:
            print(error, file=sys.stderr)
        if fresh:
            options = replace(options, seed=fresh_seed())
