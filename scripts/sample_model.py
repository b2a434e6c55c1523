"""Stage sample_model: weights + tokenizer -> samples.jsonl and a page to read.

Each prompt is written on from samples_per_prompt times, each time with a seed of its own.

Without the stage, `sample_model.py --run results/train_model/NAME` writes on from what you type, and with --prompt from
that once; `--run X --help` has its options. Nothing is kept of it.
"""

import ast
import importlib
import json
import sys
import warnings
from argparse import ArgumentParser
from dataclasses import asdict
from pathlib import Path

from jax.sharding import Mesh

from makelm import (
    at_hand,
    cli,
    generate,
    manifest,
    prompts,
    samples_page,
    shard_checks,
    sources,
    tokenizer,
    weights,
)
from makelm.config_asking import Sample
from makelm.generate import Options, Written
from makelm.model import Skeleton
from makelm.prompts import Prompt
from makelm.text_stream import TokenTexts


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--model", type=Path, required=True, help="folder of a trained run (results/train_model/...)")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of its tokenizer")
    shards_help = "folder of token shards (results/encode_shard/...), for prompts of validation documents"
    parser.add_argument("--shards", nargs="+", metavar="FOLDER", default=[], help=f"{shards_help}; {sources.HELP}")


def sample_model(job: cli.Job) -> None:
    """Writes the samples of a run."""
    job.read_input("tokenizer", job.args.tokenizer / "manifest.json")
    trained = weights.open_run(job.args.model, job.read_input)
    encoding = tokenizer.load(job.args.tokenizer)
    weights.check_tokenizer(trained, encoding.digest, str(job.args.tokenizer))
    settings, folders = job.config.sample, {}
    if job.args.shards:
        data = sources.open_sources(job.args.shards, job.config.corpora, job.read_input)
        weights.check_tokenizer(trained, data.tokenizer, str(data.first.path))
        folders = data.folders
        shard_checks.check(job, folders.values(), ("valid",))
    found = prompts.gather(settings.prompts, encoding, folders)
    asked = [prompt for prompt in found for _ in range(settings.samples_per_prompt)]
    options = [options_of(settings, settings.seed + index) for index in range(len(asked))]
    engine = make_engine(trained, encoding, asked, options, at_hand.make_mesh(job.config.mesh))
    written = generate.generate(engine, [prompt.ids for prompt in asked], options)
    rows = zip(asked, options, written, strict=True)
    samples = [describe(encoding, index, *row, settings.language) for index, row in enumerate(rows)]
    publish(job, samples, engine.speed)


def options_of(settings: Sample, seed: int) -> Options:
    """Returns how one sample is written."""
    chosen = settings.model_dump(exclude={"prompts", "samples_per_prompt", "language", "seed", "stop"})
    return Options(**chosen, seed=seed % 2**32, stop=tuple(settings.stop))


def make_engine(
    trained: weights.Weights,
    encoding: tokenizer.Tokenizer,
    asked: list[Prompt],
    options: list[Options],
    mesh: Mesh,
) -> generate.Engine:
    """Returns an engine with room for these samples, of few sizes: what is written depends on them by rounding."""
    skeleton = Skeleton(trained.model, trained.vocab_size, trained.end_of_text, mesh)
    slots = min(generate.power(len(asked), 1), generate.SLOTS)
    length = generate.slot_length([prompt.ids for prompt in asked], options, trained.model.context_length)
    readers = min(slots, generate.READERS)
    parameters, end = at_hand.place(trained.parameters, mesh), encoding.end_of_text
    return generate.Engine(skeleton, parameters, encoding.tokens, end, slots, length, readers=readers)


def describe(
    encoding: tokenizer.Tokenizer, index: int, prompt: Prompt, options: Options, written: Written, language: str | None
) -> dict:
    """Returns one line of samples.jsonl."""
    complete = written.finish_reason == "end_of_text"
    chosen = asdict(options) | {"stop": list(options.stop)}
    seed = chosen.pop("seed")
    del chosen["ends"], chosen["logprobs"]
    sample = {
        "index": index,
        "prompt": prompt.text,
        "text": written.text,
        "tokens": written.ids,
        "logprobs": [round(logprob, 5) for logprob in written.logprobs],
        "finish_reason": written.finish_reason,
        "seed": seed,
        "parses": parses(prompt.text + written.text, complete) if language == "python" else None,
        "options": chosen,
    }
    if options.logprobs:
        sample["alternatives"] = [
            [[token, round(logprob, 5)] for token, logprob in each] for each in written.alternatives
        ]
    pieces = TokenTexts(encoding.tokens).take(written.ids, written.text, last=True)
    return sample | {"pieces": pieces}


def parses(text: str, complete: bool) -> bool:
    """Returns whether a text is Python. One cut off by its length may lack its last statement: that is left out."""
    lines = text.split("\n")
    # a statement at the margin begins something new: what stands before the last such line is whole
    starts = [number for number, line in enumerate(lines) if line[:1].strip() and line[0] not in ")]}#"]
    body = text if complete or not starts or starts[-1] == 0 else "\n".join(lines[: starts[-1]])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes and the like are Python
            return bool(ast.parse(body).body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def publish(job: cli.Job, samples: list[dict], speed: generate.Speed) -> None:
    """Writes the samples, the page and the speed under their final names."""
    known = [sample["parses"] for sample in samples if sample["parses"] is not None]
    rate = round(sum(known) / len(known), 4) if known else None
    page = samples_page.render(job.out.resolve().name, samples, {"tokenizer": job.args.tokenizer.resolve().name})
    (job.staging / "samples.html").write_text(page, encoding="utf-8")
    kept = [{key: value for key, value in sample.items() if key != "pieces"} for sample in samples]
    lines = "".join(json.dumps(sample, ensure_ascii=False) + "\n" for sample in kept)
    (job.staging / "samples.jsonl").write_text(lines, encoding="utf-8")
    (job.staging / "timings.jsonl").write_text(json.dumps(speed.measured()) + "\n")
    job.say(f"{len(samples)} samples" + (f", {rate:.0%} parse as Python" if known else ""))
    files = [each["file"] for each in job.config.sample.prompts if isinstance(each, dict) and "file" in each]
    sums = {"prompt_files": [manifest.file_sha256(Path(file)) for file in files]} if files else {}
    job.publish({"samples": len(samples), "parse_rate": rate} | sums, measured=("timings.jsonl",))


if __name__ == "__main__":
    flags = {word.partition("=")[0] for word in sys.argv[1:]}
    # a person who gives neither is told of --run
    if "--run" in flags or not flags & {"--config", "--out", "--help", "-h"}:
        # by name, since samples are the same whatever is changed there
        sys.exit(importlib.import_module("makelm.interactive").main(sys.argv[1:]))
    cli.run("sample_model", __doc__, sample_model, add_arguments)
