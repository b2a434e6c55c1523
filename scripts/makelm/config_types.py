"""What typed sections of the configuration are made of: numbers as people write them, names, maps of known keys.

Keys are of two kinds. Result keys decide what comes out of a stage; execution keys (marked EXECUTION)
decide how it runs: they are recorded, and changing them reruns nothing.
"""

import difflib
import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

EXECUTION = "execution"  # put beside a type: Annotated[Count, EXECUTION]

SCIENTIFIC = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")


def number(value: Any) -> Any:
    """Reads 1e-3 as the number a person means; YAML 1.1 wants 1.0e-3 and makes a string of this."""
    if isinstance(value, str) and SCIENTIFIC.fullmatch(value):
        value = float(value)
    return value


def whole_number(value: Any) -> Any:
    """Reads 1e6 as 1000000."""
    value = number(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


Int = Annotated[int, BeforeValidator(whole_number)]
Count = Annotated[Int, Field(ge=1)]
Natural = Annotated[Int, Field(ge=0)]
Float = Annotated[float, BeforeValidator(number), Field(allow_inf_nan=False)]
Positive = Annotated[Float, Field(gt=0)]
NonNegative = Annotated[Float, Field(ge=0)]
Fraction = Annotated[Float, Field(ge=0, le=1)]
# also a folder's name; file systems take 255 bytes, and logs are called after it
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._=+-]*$", max_length=200)]
Text = Annotated[str, Field(min_length=1)]
Seed = Annotated[Int, Field(ge=0, lt=2**32)]
Repository = Annotated[str, Field(pattern=r"^[\w.-]+(/[\w.-]+)?$")]  # on the Hugging Face hub


class Section(BaseModel):
    """A map of known keys. An unknown one is refused; the error's context has it as `key`, and those `known`."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def refuse_unknown(cls, data: Any) -> Any:
        for key in data if isinstance(data, dict) else ():
            if key not in cls.model_fields:
                raise PydanticCustomError("unknown", "unknown key {key}", {"key": key, "known": list(cls.model_fields)})
        return data


def split_keys(section: BaseModel) -> tuple[dict, dict]:
    """Returns (result keys, execution keys) of a section as nested dictionaries."""
    result, execution = {}, {}
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if EXECUTION in field.metadata:
            execution[name] = value
        elif isinstance(value, BaseModel):
            inner_result, inner_execution = split_keys(value)
            if inner_result or not inner_execution:
                result[name] = inner_result
            if inner_execution:
                execution[name] = inner_execution
        else:
            result[name] = value
    return result, execution


def did_you_mean(word: str, words: Any) -> str:
    """Returns '; did you mean ...?' for the nearest of the words, or nothing."""
    near = difflib.get_close_matches(word, list(words), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
