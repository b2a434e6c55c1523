"""Stage evaluate_model: weights + validation shards -> scores.json.

The loss is in nats per token; bits per byte divides by the documents' bytes, so that tokenizers compare.
Beside it stand two compressors: xz of the validation documents, and xz that has read the training documents; of a
corpus of ready tokens, which has no text, none.
"""

import json
from argparse import ArgumentParser
from pathlib import Path

import numpy as np

from makelm import cli, evaluation, shards, weights
from makelm.errors import UserError
from makelm.model import Skeleton


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--model", type=Path, required=True, help="folder of a trained run (results/train_model/...)")
    parser.add_argument("--shards", type=Path, required=True, help="folder of token shards (results/encode_shard/...)")
    parser.add_argument("--corpus", type=Path, required=True, help="folder of its documents")


def evaluate_model(job: cli.Job) -> None:
    """Scores a run on its validation documents."""
    corpus = job.read_input("corpus", job.args.corpus / "manifest.json")["facts"]
    data = shards.open_folder(job.args.shards, job.read_input)
    trained = weights.open_run(job.args.model, job.read_input)
    weights.check_tokenizer(trained, data.tokenizer, str(job.args.shards))
    settings = job.config.evaluate
    skeleton = Skeleton(trained.model, trained.vocab_size, trained.end_of_text)
    scored = evaluation.score(
        skeleton, trained.parameters, data.valid, data.end_of_text, settings.window, settings.stride
    )
    if not np.isfinite(scored.losses).all():
        raise UserError("the model's losses are not finite; train it again with lower train.optimizer.learning_rates")
    scores = evaluation.summarize(scored, data.valid_tokens, data.valid_bytes)
    for name in ("xz_bits_per_byte", "xz_after_train_bits_per_byte"):
        scores[name] = corpus[name]
    (job.staging / "scores.json").write_text(json.dumps(scores, indent=1) + "\n")
    xz, after_train = scores["xz_bits_per_byte"], scores["xz_after_train_bits_per_byte"]
    beside = "" if xz is None else f" (xz {xz:.3f}, xz after train {after_train:.3f})"
    job.say(f"{scores['bits_per_byte']:.3f} bits per byte{beside}, perplexity {scores['perplexity']:.2f}")
    job.publish({"bits_per_byte": scores["bits_per_byte"]})


if __name__ == "__main__":
    cli.run("evaluate_model", __doc__, add_arguments, evaluate_model)
