"""The keys of a site: what its scheduler is asked for."""

from typing import Literal

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from makelm.config_types import Count, Positive, Section, Text


class Queue(Section):
    """What a scheduler is asked for by one kind of job."""

    partition: Text | None
    account: Text | None
    qos: Text | None
    minutes: Count
    memory_gb: Positive
    extra: Text | None


class Cluster(Section):
    """What a site has, for jobs that a scheduler starts."""

    cpu: Queue
    accelerator: Queue
    gpus: Text | None
    devices_per_node: Count
    nodes: Count
    process_per: Literal["node", "device"]
    warn_seconds: Count

    @model_validator(mode="after")
    def check(self) -> "Cluster":
        if self.warn_seconds >= 60 * self.accelerator.minutes:
            raise PydanticCustomError(
                "warn",
                "warn_seconds must be less than accelerator.minutes come to, got {w} and {s}",
                {"w": self.warn_seconds, "s": 60 * self.accelerator.minutes},
            )
        return self
