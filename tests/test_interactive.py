"""Talking to a run: it finds its tokenizer, streams what the generator writes, and survives Ctrl-C."""

import os
import signal
import subprocess
import sys
from functools import cache

import pytest
from checkout import ROOT
from conftest import random_parameters, shape
from test_prompts import encoding

from makelm import generate, interactive, weights
from makelm.model import Skeleton
from makelm.pages import visible

MODEL = shape(context_length=32, n_layers=1)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run whose tokenizer stands beside it, among others."""
    results = tmp_path_factory.mktemp("results")
    for name in ("train_tokenizer/a_damaged", "train_tokenizer/mine", "train_model/r/weights"):
        (results / name).mkdir(parents=True)
    (results / "train_tokenizer/a_damaged/metadata.json").write_text("{}")
    encoding.save(results / "train_tokenizer/mine")
    parameters = random_parameters(MODEL, encoding.vocab_size)
    made = weights.Weights(MODEL, encoding.vocab_size, encoding.end_of_text, encoding.digest, parameters)
    weights.save(made, results / "train_model/r" / weights.FILE)
    return results / "train_model/r"


def ask(run, *words: str) -> int:
    return interactive.main(["--run", str(run), "--cores", "2", "--temperature", "0", *words])


@cache
def engine() -> generate.Engine:
    skeleton, parameters = Skeleton(MODEL, encoding.vocab_size), random_parameters(MODEL, encoding.vocab_size)
    return generate.Engine(skeleton, parameters, encoding.tokens, encoding.end_of_text, slots=1)


def expected(prompt: str, count: int) -> str:
    options = generate.Options(max_new_tokens=count, temperature=0)
    return generate.generate(engine(), [[encoding.first, *encoding.encode(prompt)]], [options])[0].text


def test_a_conversation_goes_on_until_there_is_no_more(run, capsys, monkeypatch):
    lines = iter(["a\\nb", KeyboardInterrupt, "x"])

    def answer(_):
        line = next(lines, EOFError)
        if isinstance(line, type):
            raise line
        return line

    monkeypatch.setattr("builtins.input", answer)
    for stream in (sys.stdin, sys.stdout):
        monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
    assert ask(run, "--max-new-tokens", "12") == 0
    said = capsys.readouterr()
    assert said.out == visible("\n".join([expected("a\nb", 12), "", expected("x", 12), "", ""]))
    assert "Ctrl-D ends" in said.err


def test_a_line_that_is_not_utf_8_is_told_of_and_the_next_one_is_answered(run):
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/sample_model.py", "--run", run, "--temperature", "0", "--max-new-tokens", "2"],
        input=b"a\xff\nx\n",
        capture_output=True,
    )
    assert done.returncode == 0 and expected("x", 2).encode() in done.stdout
    assert b"the line is not UTF-8: there is a byte 0xff after 'a'" in done.stderr and b"Traceback" not in done.stderr


def talk(run, *words: str, **more) -> subprocess.Popen:
    """Starts a conversation of its own process, with pipes to and from it."""
    command = [sys.executable, ROOT / "scripts/sample_model.py", "--run", run, "--cores", "2", "--temperature", "0"]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen([*command, *words], **pipes | more)


def test_lines_that_are_piped_in_get_answers_and_nothing_else(run):
    with talk(run, "--max-new-tokens", "4") as process:
        out, complaints = process.communicate(b"a\nx")
    assert out.decode() == f"{expected('a', 4)}\n{expected('x', 4)}\n" and complaints == b""


def test_whoever_reads_no_further_ends_it(run):
    reader, writer = os.pipe()
    os.close(reader)
    with talk(run, "--prompt", "a", stdout=writer) as process:
        os.close(writer)
        assert process.wait() == 0 and process.stderr.read() == b""


def test_an_empty_prompt_needs_a_token_to_begin_with(monkeypatch):
    monkeypatch.setattr(interactive.prompts, "before", lambda _: [])
    with pytest.raises(interactive.UserError, match=r"^the prompt: this tokenizer has no token to begin with"):
        next(interactive.answer(engine(), encoding, "", generate.Options(max_new_tokens=1, temperature=0)))


def test_a_stop_string_has_line_ends_as_a_typed_text_has(run, monkeypatch):
    seen = []
    monkeypatch.setattr(interactive, "answer", lambda engine, encoding, text, options: seen.append(options.stop))
    monkeypatch.setattr(interactive, "show", lambda pieces: None)
    assert ask(run, "--prompt", "a", "--stop", "\\n", "--stop", "x\\n\n") == 0
    assert seen == [("\n", "x\n\n")]


def test_a_person_is_told_of_run_first():
    def said(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, ROOT / "scripts/sample_model.py", *words], capture_output=True, text=True
        )
        return done.stdout + done.stderr

    usage = said()
    first = usage.splitlines()[0]
    assert first == "usage: sample_model.py [-h] --run results/train_model/NAME"
    assert usage.endswith("required: --run\n") and "--config" not in usage
    assert said("--run", "x", "--help").startswith(first)
    assert "--run results/train_model/NAME" in said("--help") and "--config" in said("--out", "x")


@pytest.mark.parametrize(("terminal", "said"), [(True, "a\u241b[2Jb\u2400\n"), (False, "a\x1b[2Jb\0\n")])
def test_a_terminal_gets_nothing_to_obey(capsys, monkeypatch, terminal, said):
    monkeypatch.setattr(interactive.sys.stdout, "isatty", lambda: terminal, raising=False)
    interactive.show(piece for piece in ("a\x1b[2J", "b\0"))
    assert capsys.readouterr().out == said


def test_ctrl_c_stops_an_answer_and_not_the_program(run, capsys, monkeypatch):
    ended, before = [], signal.getsignal(signal.SIGINT)

    def stopped(*_):
        try:
            yield "half"
            signal.raise_signal(signal.SIGINT)
            yield " more"
            yield " never"
        finally:
            ended.append(True)

    monkeypatch.setattr(interactive, "answer", stopped)
    lines = iter(["x", "y"])
    monkeypatch.setattr("builtins.input", lambda _: next(lines))
    with pytest.raises(StopIteration):  # a third line was asked for
        ask(run)
    assert capsys.readouterr().out == "half more\nhalf more\n" and ended == [True, True]
    assert ask(run, "--prompt", "a") == 0 and signal.getsignal(signal.SIGINT) is before


def test_what_is_wrong_is_one_line(run, tmp_path, capsys):
    cases = {
        ("--top-p", "0", "--prompt", "a"): "--top-p: input should be greater than 0, got 0.0",
        ("--temperature", "nan", "--prompt", "a"): "--temperature: input should be a finite number, got nan",
        ("--repetition-penalty", "1e39", "--prompt", "a"): "less than or equal to 100, got 1e+39",
        ("--seed", "-1", "--prompt", "a"): "--seed: input should be greater than or equal to 0, got -1",
        ("--stop", "", "--prompt", "a"): "--stop: an empty string",
        (
            "--prompt",
            "ab\udcffc",
        ): "--prompt is not UTF-8: there is a byte 0xff after 'ab'",  # so Python has a byte of argv
        ("--stop", "\udc80", "--prompt", "a"): "--stop is not UTF-8: there is a byte 0x80 after ''",
        ("--cores", "0", "--prompt", "a"): "--cores must be 1 or more",
        ("--tokenizer", str(tmp_path), "--prompt", "a"): "is missing; run train_tokenizer",
    }
    for words, message in cases.items():
        assert ask(run, *words) == 2
        assert message in capsys.readouterr().err
    assert ask(tmp_path, "--prompt", "a") == 2
    assert "model.safetensors is missing; run train_model" in capsys.readouterr().err
    with pytest.raises(interactive.UserError, match=r"no tokenizer in .* is the one of"):
        interactive.find_tokenizer(run, "0" * 64)
