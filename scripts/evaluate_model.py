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


def evaluate_model(job: cli.Job) -> None:
    """Scores a run on its validation documents."""
    weights_of, settings = job.config.corpora, job.config.evaluate
    corpora = read_corpora(job, job.args.corpus, weights_of, "--corpus")
    data = sources.open_sources(job.args.shards, weights_of, job.read_input)
    others = {name: 1.0 for name in settings.sets if name not in weights_of}
    more_corpora = read_corpora(job, job.args.set_corpus, others, "--set-corpus")
    more = sources.open_sources(job.args.set_shards, others, job.read_input, "--set-shards") if others else None
    trained = weights.open_run(job.args.model, job.read_input)
    for each in filter(None, (data, more)):
        weights.check_tokenizer(trained, each.tokenizer, str(each.first.path))
    shard_checks.check(job, data.folders.values(), ("valid", "train") if settings.train_windows else ("valid",))
    shard_checks.check(job, more.folders.values() if more else (), ("valid",))
    scorer = scoring.Scorer(trained, at_hand.make_mesh(job.config.mesh))
    scores = {name: score(job, scorer, folder) for name, folder in data.folders.items()}
    for name, folder in data.folders.items():
        scores[name] |= {baseline: corpora[name]["facts"][baseline] for baseline in BASELINES}
        if settings.train_windows:
            scores[name] |= evaluation.train_estimate(scorer, folder.train, settings.window, settings.train_windows)
            check_finite(scores[name].get("train_loss", 0.0))
        if len(weights_of) > 1:
            job.say(f"{name}: {describe(scores[name])}")
    if len(scores) == 1:
        (whole,) = scores.values()
    else:
        bytes_per_token = {name: folder.valid_bytes / folder.valid_tokens for name, folder in data.folders.items()}
        whole = evaluation.mixture(scores, weights_of, bytes_per_token, (*BASELINES, "lost_share"))
    if more:
        whole["sets"] = {name: score(job, scorer, folder) for name, folder in more.folders.items()}
        for name, own in whole["sets"].items():
            # xz that has read that corpus's training documents would know more than the run can
            own["xz_bits_per_byte"] = more_corpora[name]["facts"]["xz_bits_per_byte"]
            job.say(f"{name}: {in_short(own)}")
    (job.staging / "scores.json").write_text(json.dumps(whole, indent=1) + "\n")
    job.say(describe(whole))
    job.publish({"bits_per_byte": whole["bits_per_byte"]})


def read_corpora(job: cli.Job, words: list[str], names: dict[str, float], option: str) -> dict[str, dict]:
    """Returns the manifests of corpora by name."""
    folders = sources.paths(words, names, option)
    return {name: job.read_input(f"corpus/{name}", path / "manifest.json") for name, path in folders.items()}


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
    cli.run("evaluate_model", __doc__, add_arguments, evaluate_model)
