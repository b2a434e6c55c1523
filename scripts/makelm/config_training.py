"""The keys of training: schedule, optimizer, steps, checkpoints, and where its numbers go."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from makelm.config_types import (
    EXECUTION,
    Count,
    Float,
    Fraction,
    Natural,
    NonNegative,
    Positive,
    Section,
    Seed,
    Text,
)


class Schedule(Section):
    """The learning rate over the steps, as a factor on every rate."""

    kind: Literal["linear", "cosine", "rsqrt", "constant"]
    warmup_steps: Natural
    warmup_start: Fraction | None
    decay_fraction: Fraction
    decay_end: Count | None
    final: Fraction


ParameterKind = Literal["matrices", "embedding", "head", "vectors"]


class LearningRates(Section):
    """The peak learning rate of each kind of parameter."""

    matrices: Positive
    embedding: Positive
    head: Positive
    vectors: Positive


class Optimizer(Section):
    """How gradients change weights. Muon takes the matrices only, Adam the rest; the others take all."""

    kind: Literal["adamw", "muon", "lion", "adafactor"]
    learning_rates: LearningRates
    # null is none too: over those of a base an empty map changes nothing
    rate_multipliers: Annotated[dict[Text, Positive], BeforeValidator(lambda value: {} if value is None else value)]
    beta1: Fraction
    beta2: Fraction
    eps: Positive
    momentum: Fraction
    weight_decay: NonNegative
    independent_decay: bool
    decay: list[ParameterKind]
    decay_except: list[Text]
    clip_norm: Positive | None


class Train(Section):
    """How the weights come about."""

    seed: Seed
    steps: Natural  # 0: the weights as they begin
    batch_size: Count
    order: Literal["shuffled", "random", "packed"]
    optimizer: Optimizer
    schedule: Schedule
    z_loss: NonNegative
    ema: Annotated[Float, Field(gt=0, lt=1)] | None
    publish: Literal["last", "best"]
    validate_every: Count
    validate_windows: Count
    max_gradient_norm: Positive | None
    bad_steps: Literal["stop", "skip"]
    checkpoint_every: Annotated[Count, EXECUTION]
    checkpoint_minutes: Annotated[Positive | None, EXECUTION]
    keep_checkpoints: Annotated[Count, EXECUTION]
    keep_every: Annotated[Count | None, EXECUTION]
    keep_best: Annotated[bool, EXECUTION]
    time_limit: Annotated[Positive | None, EXECUTION]
    lock_wait: Annotated[NonNegative, EXECUTION]
    resume_from: Annotated[Text | None, EXECUTION]
    log_every: Annotated[Count, EXECUTION]
    statistics_every: Annotated[Count | None, EXECUTION]
    profile_steps: Annotated[Annotated[list[Count], Field(min_length=2, max_length=2)] | None, EXECUTION]

    @model_validator(mode="after")
    def check(self) -> "Train":
        if not self.steps:  # nor is there a schedule or a trace
            return self
        if self.schedule.warmup_steps >= self.steps:
            raise PydanticCustomError(
                "warmup",
                "schedule.warmup_steps must be less than steps, got {w} and {s}",
                {"w": self.schedule.warmup_steps, "s": self.steps},
            )
        if (end := self.schedule.decay_end) is not None and not self.schedule.warmup_steps < end <= self.steps:
            raise PydanticCustomError(
                "decay_end",
                "schedule.decay_end must be after warmup_steps and at most steps, got {e}",
                {"e": end},
            )
        first, last = self.profile_steps or (1, 1)
        if first > min(last, self.steps):  # there would be no trace
            raise PydanticCustomError(
                "profile_steps",
                "profile_steps must begin at or before their last step and that of training, got {p} of {s}",
                {"p": f"[{first}, {last}]", "s": self.steps},
            )
        return self


class Tracking(Section):
    """Where the numbers of a training go beside its own files and TensorBoard's."""

    wandb: Annotated[Literal["online", "offline"] | None, EXECUTION]
    project: Annotated[Text, EXECUTION]
    entity: Annotated[Text | None, EXECUTION]
