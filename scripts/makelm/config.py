"""The typed configuration: a run, whose sections have their keys in config_*.py, and all that runs name.

Types, bounds and how keys must agree stand there, values in YAML only.
"""

from typing import Annotated

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from makelm.config_asking import Evaluate, Sample, Task
from makelm.config_cluster import Cluster
from makelm.config_corpus import Corpus
from makelm.config_devices import Compute, Hardware, Mesh
from makelm.config_mixture import Mixed
from makelm.config_model import Model
from makelm.config_tokenizer import Tokenizer
from makelm.config_training import Tracking, Train
from makelm.config_types import EXECUTION, Count, Name, Section
from makelm.config_weights import Export, Start, Weights


class Run(Mixed):
    """One model: what it is made of and what is done with it."""

    tokenizer: Name
    cores: Annotated[Count, EXECUTION]
    model: Model
    hardware: Hardware
    mesh: Mesh
    compute: Compute
    start: Start | None
    train: Train
    tracking: Tracking
    sample: Sample
    evaluate: Evaluate
    tasks: list[Name]
    export: Export

    @model_validator(mode="after")
    def check(self) -> "Run":
        check_training(self.model, self.compute, self.train)
        if not self.train.steps and self.start is None:
            raise PydanticCustomError("steps", "train.steps: 0 needs a start:, whose weights stay as they are")
        context, new, window = self.model.context_length, self.sample.max_new_tokens, self.evaluate.window
        if self.model.positions.kind == "learned" and new >= context:
            raise PydanticCustomError(
                "positions",
                "sample.max_new_tokens must be less than model.context_length, where learned positions end,"
                " got {n} and {c}",
                {"n": new, "c": context},
            )
        if self.model.positions.kind == "learned" and window > context:
            raise PydanticCustomError(
                "positions",
                "evaluate.window must be at most model.context_length, where learned positions end, got {w} and {c}",
                {"w": window, "c": context},
            )
        return self


def check_training(model: Model, compute: Compute, train: Train) -> None:
    """Refuses sections of which each is right, but which cannot train together."""
    if compute.attention in ("cudnn", "splash") and (model.compute_dtype != "bfloat16" or model.dropout):
        raise PydanticCustomError(
            "attention",
            "compute.attention: {k} needs model.compute_dtype: bfloat16 and model.dropout: 0, got {d} and {r}",
            {"k": compute.attention, "d": model.compute_dtype, "r": model.dropout},
        )
    if train.batch_size % compute.accumulate:
        raise PydanticCustomError(
            "accumulate",
            "train.batch_size must be a multiple of compute.accumulate, got {b} and {a}",
            {"b": train.batch_size, "a": compute.accumulate},
        )


class Config(Section):
    """A whole configuration, runs expanded."""

    corpus: dict[Name, Corpus]
    weights: dict[Name, Weights]
    tokenizer: dict[Name, Tokenizer]
    task: dict[Name, Task]
    run: dict[Name, Run]
    cluster: Annotated[Cluster | None, EXECUTION]
    runs: Annotated[list[Name], Field(min_length=1)]
