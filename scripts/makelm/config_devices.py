"""The keys of the devices that a run is for, how they are arranged, and how they compute."""

from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator, model_validator
from pydantic_core import PydanticCustomError

from makelm.config_types import EXECUTION, Count, Int, Positive, Section, Text, whole_number


class Mesh(Section):
    """How devices are arranged. -1 takes all that are left."""

    data: Annotated[Annotated[Int, Field(ge=-1)], EXECUTION]
    fsdp: Annotated[Annotated[Int, Field(ge=-1)], EXECUTION]
    tensor: Annotated[Annotated[Int, Field(ge=-1)], EXECUTION]

    @model_validator(mode="after")
    def check(self) -> "Mesh":
        sizes = [self.data, self.fsdp, self.tensor]
        if 0 in sizes or sizes.count(-1) > 1:
            raise PydanticCustomError("mesh", "axes are 1 or more, and one of them may be -1 (all that are left)")
        return self


def device_count(value: Any) -> Any:
    """Reads a number of devices, or local."""
    value = whole_number(value)
    if value != "local" and (type(value) is not int or value < 1):
        raise PydanticCustomError("devices", "input should be local or a number of 1 or more")
    return value


class Hardware(Section):
    """What a run is planned for and must find: so many devices, or those of this machine (local).

    `packages` names the conda environment of what computes on them.
    """

    devices: Annotated[int | Literal["local"], PlainValidator(device_count), EXECUTION]
    topology: Annotated[Text | None, EXECUTION]
    memory_gb: Annotated[Positive | None, EXECUTION]
    packages: Annotated[Literal["cpu", "cuda", "tpu"], EXECUTION]

    @model_validator(mode="after")
    def check(self) -> "Hardware":
        if self.topology is not None and self.devices == "local":
            raise PydanticCustomError(
                "topology",
                "topology needs devices, how many it has, got {t} and local",
                {"t": self.topology},
            )
        return self


class Compute(Section):
    """How the same numbers are computed; what is chosen here changes them by rounding only."""

    attention: Annotated[Literal["auto", "xla", "cudnn", "splash"], EXECUTION]
    scan_layers: Annotated[bool, EXECUTION]
    remat: Annotated[bool, EXECUTION]
    accumulate: Annotated[Count, EXECUTION]
    deterministic: Annotated[bool, EXECUTION]
