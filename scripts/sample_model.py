"""Stage sample_model: weights + tokenizer -> samples.jsonl and a page to read.

Each prompt is written on from samples_per_prompt times, each time with a seed of its own. A prompt stands
at the beginning of a document: the token that stands before one comes first, else that which ends the one before.
"""

import ast
import json
import time
import warnings
from argparse import ArgumentParser
from pathlib import Path

from makelm import cli, generate, samples_page, tokenizer, weights
from makelm.errors import UserError
from makelm.model import Skeleton


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--model", type=Path, required=True, help="folder of a trained run (results/train_model/...)")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of its tokenizer")


def sample_model(job: cli.Job) -> None:
    """Writes the samples of a run."""
    job.read_input("tokenizer", job.args.tokenizer / "manifest.json")
    trained = weights.open_run(job.args.model, job.read_input)
    encoding = tokenizer.load(job.args.tokenizer)
    weights.check_tokenizer(trained, encoding.digest, str(job.args.tokenizer))
    settings = job.config.sample
    texts = [prompt for prompt in settings.prompts for _ in range(settings.samples_per_prompt)]
    prompts = [encode_prompt(encoding, text) for text in texts]
    seeds = [settings.seed + index for index in range(len(texts))]
    options = generate.Options(settings.temperature, settings.top_k, settings.top_p)
    started = time.monotonic()
    skeleton = Skeleton(trained.model, trained.vocab_size, trained.end_of_text)
    written = generate.generate(skeleton, trained.parameters, prompts, seeds, settings.max_new_tokens, options)
    seconds = time.monotonic() - started
    samples = [
        describe(encoding, index, texts[index], ids, seeds[index], settings) for index, ids in enumerate(written)
    ]
    publish(job, samples, seconds)


def encode_prompt(encoding: tokenizer.Tokenizer, text: str) -> list[int]:
    """Returns a prompt's ids. Raises UserError where there are none to start from."""
    start = [] if encoding.first is None else [encoding.first]
    ids = [*start, *encoding.encode(text)]
    if not ids:
        raise UserError("sample.prompts: this tokenizer has no token to begin with, so a prompt cannot be empty")
    return ids


def describe(encoding: tokenizer.Tokenizer, index: int, prompt: str, ids: list[int], seed: int, settings) -> dict:
    """Returns one line of samples.jsonl."""
    ended = encoding.end_of_text in ids
    if ended:
        ids = ids[: ids.index(encoding.end_of_text)]
    text = encoding.decode(ids)
    return {
        "index": index,
        "prompt": prompt,
        "text": text,
        "tokens": ids,
        "finish_reason": "end_of_text" if ended else "length",
        "seed": seed,
        "parses": parses(prompt + text, ended) if settings.language == "python" else None,
        "options": settings.model_dump(include={"temperature", "top_k", "top_p", "max_new_tokens"}),
    }


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


def publish(job: cli.Job, samples: list[dict], seconds: float) -> None:
    """Writes the samples, the page and the speed under their final names."""
    lines = "".join(json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples)
    (job.staging / "samples.jsonl").write_text(lines, encoding="utf-8")
    known = [sample["parses"] for sample in samples if sample["parses"] is not None]
    rate = round(sum(known) / len(known), 4) if known else None
    page = samples_page.render(job.out.resolve().name, samples, {"tokenizer": job.args.tokenizer.resolve().name})
    (job.staging / "samples.html").write_text(page, encoding="utf-8")
    tokens = sum(len(sample["tokens"]) for sample in samples)
    timing = {"seconds": round(seconds, 3), "tokens": tokens, "tokens_per_second": round(tokens / seconds, 1)}
    (job.staging / "timings.jsonl").write_text(json.dumps(timing) + "\n")
    job.say(f"{len(samples)} samples" + (f", {rate:.0%} parse as Python" if known else ""))
    job.publish({"samples": len(samples), "parse_rate": rate}, measured=("timings.jsonl",))


if __name__ == "__main__":
    cli.run("sample_model", __doc__, add_arguments, sample_model)
