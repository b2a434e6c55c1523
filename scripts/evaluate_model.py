"""Stage evaluate_model: weights + validation shards -> scores.json.

The loss is in nats per token; bits per byte divides by the documents' bytes, so that tokenizers compare.
Beside it stand two compressors: xz of the validation documents, and xz that has read the training documents; of a
corpus of ready tokens, which has no text, none. Where the run has several corpora, each has its scores, and above them
stand those of the mixture. Validation documents of other corpora can be scored too; some windows of the training
tokens tell how much is known by heart.
"""

import json
from argparse import ArgumentParser
from pathlib import Path
from typing import NamedTuple

import numpy as np

from makelm import at_hand, cli, evaluation, lossy, progress, scoring, shard_checks, shards, sources, weights
from makelm.errors import UserError

BASELINES = ("xz_bits_per_byte", "xz_after_train_bits_per_byte")


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--model", type=Path, required=True, help="folder of a trained run (results/train_model/...)")
    shards_help = f"folder of token shards (results/encode_shard/...); {sources.HELP}"
    parser.add_argument("--shards", nargs="+", metavar="FOLDER", required=True, help=shards_help)
    corpus_help = f"folder of its documents; {sources.HELP}"
    parser.add_argument("--corpus", nargs="+", metavar="FOLDER", required=True, help=corpus_help)
    sets_help = "of each other corpus of evaluate.sets its"
    parser.add_argument("--set-shards", nargs="+", metavar="NAME=FOLDER", default=[], help=f"{sets_help} token shards")
    parser.add_argument("--set-corpus", nargs="+", metavar="NAME=FOLDER", default=[], help=f"{sets_help} documents")


class Texts(NamedTuple):
    """What a run is scored on, as tokens and as documents."""

    tokens: sources.Sources
    corpora: dict[str, dict]  # name -> content of its manifest


def evaluate_model(job: cli.Job) -> None:
    """Scores a run on its validation documents."""
    own = open_texts(job, "--", job.args.shards, job.args.corpus, job.config.corpora)
    others = {name: 1.0 for name in job.config.evaluate.sets if name not in job.config.corpora}
    more = open_texts(job, "--set-", job.args.set_shards, job.args.set_corpus, others) if others else None
    trained = weights.open_run(job.args.model, job.read_input)
    for texts in filter(None, (own, more)):
        weights.check_tokenizer(trained, texts.tokens.tokenizer, str(texts.tokens.first.path))
    parts = ("valid", "train") if job.config.evaluate.train_windows else ("valid",)
    shard_checks.check(job, own.tokens.folders.values(), parts)
    shard_checks.check(job, more.tokens.folders.values() if more else (), ("valid",))
    scorer = scoring.Scorer(trained, at_hand.make_mesh(job.config.mesh))
    scores = score_own(job, scorer, own)
    if more:
        scores["sets"] = score_others(job, scorer, more)
    (job.staging / "scores.json").write_text(json.dumps(scores, indent=1) + "\n")
    job.say(describe(scores))
    job.publish({"bits_per_byte": scores["bits_per_byte"]})


def open_texts(
    job: cli.Job, options: str, shard_words: list[str], corpus_words: list[str], names: dict[str, float]
) -> Texts:
    """Returns corpora whose folders are given by two options that begin with `options`."""
    folders = sources.paths(corpus_words, names, f"{options}corpus")
    corpora = {name: job.read_input(f"corpus/{name}", path / "manifest.json") for name, path in folders.items()}
    return Texts(sources.open_sources(shard_words, names, job.read_input, f"{options}shards"), corpora)


def score_own(job: cli.Job, scorer: scoring.Scorer, texts: Texts) -> dict:
    """Returns the scores of a run on its own corpora, of several those of the mixture and of each."""
    scores, settings = {}, job.config.evaluate
    for name, folder in texts.tokens.folders.items():
        own = score(job, scorer, folder) | {baseline: texts.corpora[name]["facts"][baseline] for baseline in BASELINES}
        if settings.train_windows:
            own |= evaluation.train_estimate(scorer, folder.train, settings.window, settings.train_windows)
            check_finite(own.get("train_loss", 0.0))
        scores[name] = own
    if len(scores) == 1:
        (only,) = scores.values()
        return only
    for name, own in scores.items():
        job.say(f"{name}: {describe(own)}")
    bytes_per_token = {name: folder.valid_bytes / folder.valid_tokens for name, folder in texts.tokens.folders.items()}
    return evaluation.mixture(scores, texts.tokens.weights, bytes_per_token, (*BASELINES, "lost_share"))


def score_others(job: cli.Job, scorer: scoring.Scorer, texts: Texts) -> dict[str, dict]:
    """Returns the scores of a run on each of other corpora."""
    scores = {}
    for name, folder in texts.tokens.folders.items():
        # xz that has read that corpus's training documents would know more than the run can
        xz = texts.corpora[name]["facts"]["xz_bits_per_byte"]
        scores[name] = score(job, scorer, folder) | {"xz_bits_per_byte": xz}
        job.say(f"{name}: {in_short(scores[name])}")
    return scores


def score(job: cli.Job, scorer: scoring.Scorer, folder: shards.Folder) -> dict:
    """Returns the scores of a run on the validation documents of one corpus."""
    settings = job.config.evaluate
    ends = folder.begin_of_text, folder.end_of_text
    scored = evaluation.score(scorer, folder.valid, *ends, settings.window, settings.stride)
    check_finite(scored.losses)
    return evaluation.summarize(scored, folder.valid_tokens, folder.valid_bytes) | {"lost_share": folder.lost_share}


def check_finite(losses: np.ndarray | float) -> None:
    """Raises UserError where a loss is no number: there is no score then."""
    if not np.isfinite(losses).all():
        raise UserError("the model's losses are not finite; train it again with lower train.optimizer.learning_rates")


def describe(scores: dict) -> str:
    """Returns the scores in one line, beside those of the compressors."""
    xz, after_train = (scores[name] for name in BASELINES)
    return in_short(scores, "" if xz is None else f" (xz {xz:.3f}, xz after train {after_train:.3f})")


def in_short(scores: dict, beside: str = "") -> str:
    """Returns the scores in one line."""
    bits, perplexity = progress.score(scores["bits_per_byte"]), progress.score(scores["perplexity"], 2)
    lost = lossy.warning(lossy.lost_share(scores))
    return f"{bits} bits per byte{beside}{f' {lost}' if lost else ''}, perplexity {perplexity}"


if __name__ == "__main__":
    cli.run("evaluate_model", __doc__, evaluate_model, add_arguments)
