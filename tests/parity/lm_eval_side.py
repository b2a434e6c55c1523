"""What lm-eval makes of exported models with its own Hugging Face backend; runs where torch is, not where JAX is.

    python lm_eval_side.py FOLDER

Each folder in FOLDER is a case: an exported model with its tokenizer, and tasks/ with YAML files. Writes answers.json
beside it: task -> a list of the responses and metrics of each question.
"""

import json
import sys
from pathlib import Path

from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager


def main(root: str) -> None:
    """Asks all cases."""
    manager = TaskManager(include_defaults=False)
    for folder in sorted(Path(root).iterdir()):
        model = HFLM(pretrained=str(folder), dtype="float32", device="cpu", batch_size=1)
        names = [str(path) for path in sorted((folder / "tasks").glob("*.yaml"))]
        loaded = manager.load(names)
        for task in loaded["tasks"].values():
            task.set_config("num_fewshot", task.config.num_fewshot or 0)
            task.set_fewshot_seed(1234)
        samples = evaluate(model, loaded, bootstrap_iters=0)["samples"]
        found = {name: [answer(sample) for sample in each] for name, each in samples.items()}
        (folder / "answers.json").write_text(json.dumps(found))


def answer(sample: dict) -> dict:
    """Returns what came of one question."""
    metrics = {name: sample[name] for name in sample["metrics"]}
    return {"responses": [response[0] for response in sample["resps"]], "metrics": metrics}


if __name__ == "__main__":
    main(*sys.argv[1:])
