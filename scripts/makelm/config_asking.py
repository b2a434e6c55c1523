"""The keys of what a trained model is asked: samples, validation documents, tasks."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, model_validator
from pydantic_core import PydanticCustomError

from makelm.config_types import (
    Count,
    Name,
    Natural,
    Section,
    Seed,
    Text,
    number,
    whole_number,
)

COLDEST = 1e-4  # logits divided by it are finite in float32


def not_too_cold(temperature: float) -> float:
    """Returns a temperature by which logits can be divided, or 0, by which none are."""
    if 0 < temperature < COLDEST:
        raise PydanticCustomError("temperature", "should be 0 or at least {coldest}", {"coldest": COLDEST})
    return temperature


# how a token is drawn: in a configuration, on the command line and in a request
Temperature = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False), AfterValidator(not_too_cold)]
TopP = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
MinP = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
RepetitionPenalty = Annotated[float, Field(ge=0.01, le=100, allow_inf_nan=False)]
Read = BeforeValidator(number)


def prompt(value: Any) -> str | dict[str, Any]:
    """Reads a text, a file of prompts, or how many validation documents and how many tokens of each."""
    keys = set(value) if isinstance(value, dict) else None
    if isinstance(value, str) or (keys == {"file"} and isinstance(value["file"], str) and value["file"]):
        return value
    if keys == {"validation", "tokens"}:
        counts = {key: whole_number(count) for key, count in value.items()}
        if all(type(count) is int and count > 0 for count in counts.values()):
            return counts
    raise PydanticCustomError(
        "prompt",
        "a prompt should be a text, {form}{got}",
        {
            "form": "{file: a path} or {validation: documents, tokens: of each}",
            "got": f", got {value}" if isinstance(value, dict) else "",
        },
    )


class Sample(Section):
    """What the trained model is asked to write."""

    prompts: Annotated[list[Annotated[str | dict[str, Any], PlainValidator(prompt)]], Field(min_length=1)]
    samples_per_prompt: Count
    max_new_tokens: Count
    temperature: Annotated[Temperature, Read]
    top_k: Count | None
    top_p: Annotated[TopP, Read] | None
    min_p: Annotated[MinP, Read] | None
    repetition_penalty: Annotated[RepetitionPenalty, Read] | None
    stop: list[Text]
    logprobs: Natural
    seed: Seed
    language: Literal["python"] | None


class Evaluate(Section):
    """How the validation documents are scored, those of which other corpora too, and how many windows of train."""

    window: Count
    stride: Count
    train_windows: Natural
    sets: list[Name]

    @model_validator(mode="after")
    def check(self) -> "Evaluate":
        if self.stride > self.window:
            raise PydanticCustomError(
                "stride", "stride must be at most window, got {s} and {w}", {"s": self.stride, "w": self.window}
            )
        return self


class TaskSource(Section):
    """A task of lm-eval by name, or a YAML file of this machine in its format."""

    name: Text | None
    file: Text | None

    @model_validator(mode="after")
    def check(self) -> "TaskSource":
        if (self.name is None) == (self.file is None):
            raise PydanticCustomError("task", "a task needs one of name and file, the other null")
        return self


class Asking(Section):
    """How a model is asked what is in a task."""

    num_fewshot: Natural | None
    limit: Count | None
    logprobs: bool


class Task(TaskSource, Asking):
    """A task, and how it is asked."""
