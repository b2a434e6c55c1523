"""The keys of weights that come in, of others or of another run, and of those that are handed out."""

from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from makelm.config_types import Name, Repository, Section, Text


class LocalWeights(Section):
    """A folder in the layout of Hugging Face: config.json and *.safetensors."""

    source: Literal["local"]
    path: Text


class HubWeights(Section):
    """A model of the Hugging Face hub, its safetensors only."""

    source: Literal["huggingface"]
    repository: Repository
    revision: Text | None


WEIGHTS = {"local": LocalWeights, "huggingface": HubWeights}

Weights = Annotated[LocalWeights | HubWeights, Field(discriminator="source")]


class Start(Section):
    """Weights to begin with instead of random ones: those of an entry of `weights:` or those of another run."""

    weights: Name | None
    run: Name | None
    optimizer: Literal["fresh", "kept"]
    schedule: Literal["fresh", "kept"]

    @model_validator(mode="after")
    def check(self) -> "Start":
        if (self.weights is None) == (self.run is None):
            raise PydanticCustomError("start", "start needs one of weights: and run:, the other null")
        if self.run is None and "kept" in (self.optimizer, self.schedule):
            raise PydanticCustomError("start", "optimizer and schedule can be kept from a run: only")
        return self


class Export(Section):
    """What is handed to other people's code."""

    dtype: Literal["float32", "bfloat16"]
