"""Stage evaluate_model: weights + validation shards -> scores.json.

The loss is in nats per token; bits per byte divides by the documents' bytes, so that tokenizers compare.
Beside it stand two compressors: xz of the validation documents, and xz that has read the training documents; of a
corpus of ready tokens, which has no text, none. Where the run has several corpora, each has its scores, and above them
stand those of the mixture.
"""

import json
from argparse import ArgumentParser
from pathlib import Path

import numpy as np

from makelm import cli, evaluation, shards, sources, weights
from makelm.errors import UserError
from makelm.model import Skeleton

BASELINES = ("xz_bits_per_byte", "xz_after_train_bits_per_byte")


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--model", type=Path, required=True, help="folder of a trained run (results/train_model/...)")
    shards_help = f"folder of token shards (results/encode_shard/...); {sources.HELP}"
    parser.add_argument("--shards", nargs="+", metavar="FOLDER", required=True, help=shards_help)
    corpus_help = f"folder of its documents; {sources.HELP}"
    parser.add_argument("--corpus", nargs="+", metavar="FOLDER", required=True, help=corpus_help)


def evaluate_model(job: cli.Job) -> None:
    """Scores a run on its validation documents."""
    weights_of = job.config.corpora
    folders = sources.paths(job.args.corpus, weights_of, "--corpus")
    corpora = {name: job.read_input(f"corpus/{name}", path / "manifest.json") for name, path in folders.items()}
    data = sources.open_sources(job.args.shards, weights_of, job.read_input)
    trained = weights.open_run(job.args.model, job.read_input)
    weights.check_tokenizer(trained, data.tokenizer, str(data.first.path))
    scores = {}
    for name, folder in data.folders.items():
        scores[name] = score(job, trained, folder)
        for baseline in BASELINES:
            scores[name][baseline] = corpora[name]["facts"][baseline]
        if len(weights_of) > 1:
            job.say(f"{name}: {describe(scores[name])}")
    if len(scores) == 1:
        (whole,) = scores.values()
    else:
        bytes_per_token = {name: folder.valid_bytes / folder.valid_tokens for name, folder in data.folders.items()}
        whole = evaluation.mixture(scores, weights_of, bytes_per_token, BASELINES)
    (job.staging / "scores.json").write_text(json.dumps(whole, indent=1) + "\n")
    job.say(describe(whole))
    job.publish({"bits_per_byte": whole["bits_per_byte"]})


def score(job: cli.Job, trained: weights.Weights, folder: shards.Folder) -> dict[str, float | int]:
    """Returns the scores of a run on the validation documents of one corpus."""
    settings = job.config.evaluate
    skeleton = Skeleton(trained.model, trained.vocab_size, trained.end_of_text)
    ends = folder.begin_of_text, folder.end_of_text
    scored = evaluation.score(skeleton, trained.parameters, folder.valid, *ends, settings.window, settings.stride)
    if not np.isfinite(scored.losses).all():
        raise UserError("the model's losses are not finite; train it again with lower train.optimizer.learning_rates")
    return evaluation.summarize(scored, folder.valid_tokens, folder.valid_bytes)


def describe(scores: dict) -> str:
    """Returns the scores in one line."""
    xz, after_train = (scores[name] for name in BASELINES)
    beside = "" if xz is None else f" (xz {xz:.3f}, xz after train {after_train:.3f})"
    return f"{scores['bits_per_byte']:.3f} bits per byte{beside}, perplexity {scores['perplexity']:.2f}"


if __name__ == "__main__":
    cli.run("evaluate_model", __doc__, add_arguments, evaluate_model)
