"""What others reported of their models on tasks; published.yaml has it with its source."""

from dataclasses import dataclass
from pathlib import Path

import yaml

Metric = tuple[str, str]  # lm-eval's names of a task and a metric


@dataclass(frozen=True)
class Model:
    """A model of others."""

    name: str
    by: str  # authors: of the model; table: whoever made the source's table
    values: dict[Metric, float]


@dataclass(frozen=True)
class Published:
    """All that is known of other people's models."""

    source: str
    models: list[Model]


def load() -> Published:
    """Returns the published figures."""
    found = yaml.safe_load(Path(__file__).with_name("published.yaml").read_text(encoding="utf-8"))
    metrics = [(task, metric) for task, metric in found["metrics"]]
    models = [
        Model(
            one["name"],
            one["by"],
            {metric: value for metric, value in zip(metrics, one["values"], strict=True) if value is not None},
        )
        for one in found["models"]
    ]
    return Published(found["source"], models)
