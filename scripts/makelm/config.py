"""The typed configuration: every key, its type, its bounds and how keys must agree. Values live in YAML only.

Keys are of two kinds. Result keys decide what comes out of a stage; execution keys (marked EXECUTION)
decide how it runs: they are recorded, and changing them reruns nothing.
"""

import difflib
import re
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)
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
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._=+-]*$")]  # also a folder's name
Text = Annotated[str, Field(min_length=1)]
Seed = Annotated[Int, Field(ge=0, lt=2**32)]


class Section(BaseModel):
    """A map of known keys. An unknown one is refused, with the nearest known one named."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def refuse_unknown(cls, data: Any) -> Any:
        for key in data if isinstance(data, dict) else ():
            if key not in cls.model_fields:
                raise PydanticCustomError(
                    "unknown", "unknown key {key}{hint}", {"key": repr(key), "hint": hint(cls, str(key))}
                )
        return data


def hint(section: type[Section], key: str) -> str:
    """Returns where a misspelt or misplaced key probably belongs, or what there is."""
    near = did_you_mean(key, section.model_fields)
    home = next((name for name, keys in RUN_SECTIONS.items() if key in keys), None)
    if near or not home:
        return near or f"; known here: {', '.join(section.model_fields)}"
    return f"; it belongs under {home}:"


def did_you_mean(word: str, words: Any) -> str:
    """Returns '; did you mean ...?' for the nearest of the words, or nothing."""
    near = difflib.get_close_matches(word, list(words), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


# ---- corpora


class Split(Section):
    """How many documents are taken, and how they are divided into train and validation."""

    max_documents: Count | None
    shards: Count
    split: Literal["hash", "tail"]
    valid_fraction: Annotated[Float, Field(gt=0, lt=1)]


class StdlibCorpus(Split):
    """The source text of the Python standard library of the interpreter that runs the stage."""

    source: Literal["stdlib"]


class LocalCorpus(Split):
    """Files and folders on this machine: one document per .txt or .md file or other text, one per line of .jsonl."""

    source: Literal["local"]
    paths: Annotated[list[Text], Field(min_length=1)]
    text_key: Text


class UrlCorpus(Split):
    """One file from the network, .txt or .jsonl, known by its sha256."""

    source: Literal["url"]
    url: Annotated[str, Field(pattern=r"^(https?|file)://")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    text_key: Text


class DatasetsCorpus(Split):
    """A data set of the Hugging Face hub, or a local folder that `datasets` can load."""

    source: Literal["huggingface"]
    dataset: Text
    subset: Text | None
    revision: Text | None
    dataset_split: Text
    text_key: Text


CORPORA = {"stdlib": StdlibCorpus, "local": LocalCorpus, "url": UrlCorpus, "huggingface": DatasetsCorpus}


def corpus_source(data: Any) -> Any:
    """Returns the source of a corpus, which decides what keys it has."""
    return data.get("source") if isinstance(data, dict) else getattr(data, "source", None)


Corpus = Annotated[
    Annotated[StdlibCorpus, Tag("stdlib")]
    | Annotated[LocalCorpus, Tag("local")]
    | Annotated[UrlCorpus, Tag("url")]
    | Annotated[DatasetsCorpus, Tag("huggingface")],
    Discriminator(corpus_source),
]

# ---- tokenizers


class Tokenizer(Section):
    """How text becomes token ids."""

    kind: Literal["bpe", "byte", "char"]
    corpus: Name
    vocab_size: Annotated[Int, Field(ge=257, le=2**31 - 1)] | None
    pattern: Text | None
    end_of_text: bool

    @model_validator(mode="after")
    def check(self) -> "Tokenizer":
        if (self.kind == "bpe") != (self.vocab_size is not None) or (self.kind == "bpe") != (self.pattern is not None):
            raise PydanticCustomError("vocab", "vocab_size and pattern are for kind: bpe (and null for the others)")
        try:
            re.compile(self.pattern or "") if "\\p" not in (self.pattern or "") else None
        except re.error as error:
            raise PydanticCustomError("pattern", "pattern is no regular expression: {e}", {"e": str(error)}) from error
        return self


# ---- runs


class Model(Section):
    """The shape of the Transformer."""

    context_length: Count
    n_layers: Count
    d_model: Count
    n_heads: Count
    n_kv_heads: Count
    d_head: Annotated[Int, Field(ge=2, multiple_of=2)]
    d_ff: Count
    activation: Literal["swiglu", "relu_squared"]
    qk_norm: bool
    tie_embeddings: bool
    rope_base: Positive
    norm_eps: Positive
    compute_dtype: Literal["float32", "bfloat16"]

    @model_validator(mode="after")
    def check(self) -> "Model":
        if self.n_heads % self.n_kv_heads:
            raise PydanticCustomError(
                "heads",
                "n_heads must be a multiple of n_kv_heads, got {n} and {k}",
                {"n": self.n_heads, "k": self.n_kv_heads},
            )
        return self


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


class Schedule(Section):
    """The learning rate over the steps, as a factor on every rate."""

    kind: Literal["linear", "cosine", "constant"]
    warmup_steps: Natural
    decay_fraction: Fraction
    final: Fraction


class LearningRates(Section):
    """The peak learning rate of each kind of parameter."""

    matrices: Positive
    embedding: Positive
    head: Positive
    norms: Positive


class Optimizer(Section):
    """How gradients change weights. Muon takes the matrices only, Adam the rest; AdamW takes all."""

    kind: Literal["adamw", "muon"]
    learning_rates: LearningRates
    beta1: Fraction
    beta2: Fraction
    eps: Positive
    momentum: Fraction
    weight_decay: NonNegative
    clip_norm: Positive | None


class Train(Section):
    """How the weights come about."""

    seed: Seed
    steps: Count
    batch_size: Count
    optimizer: Optimizer
    schedule: Schedule
    validate_every: Count
    validate_windows: Count
    checkpoint_every: Annotated[Count, EXECUTION]
    keep_checkpoints: Annotated[Count, EXECUTION]
    log_every: Annotated[Count, EXECUTION]

    @model_validator(mode="after")
    def check(self) -> "Train":
        if self.schedule.warmup_steps >= self.steps:
            raise PydanticCustomError(
                "warmup",
                "schedule.warmup_steps must be less than steps, got {w} and {s}",
                {"w": self.schedule.warmup_steps, "s": self.steps},
            )
        return self


class Sample(Section):
    """What the trained model is asked to write."""

    prompts: Annotated[list[str], Field(min_length=1)]
    samples_per_prompt: Count
    max_new_tokens: Count
    temperature: NonNegative
    top_k: Count | None
    top_p: Annotated[Float, Field(gt=0, le=1)] | None
    seed: Seed
    language: Literal["python"] | None


class Evaluate(Section):
    """How the validation documents are scored."""

    window: Count
    stride: Count

    @model_validator(mode="after")
    def check(self) -> "Evaluate":
        if self.stride > self.window:
            raise PydanticCustomError(
                "stride", "stride must be at most window, got {s} and {w}", {"s": self.stride, "w": self.window}
            )
        return self


class Export(Section):
    """What is handed to other people's code."""

    dtype: Literal["float32", "bfloat16"]


class Run(Section):
    """One model: what it is made of and what is done with it."""

    corpus: Name
    tokenizer: Name
    cores: Annotated[Count, EXECUTION]
    model: Model
    mesh: Mesh
    train: Train
    sample: Sample
    evaluate: Evaluate
    export: Export


RUN_SECTIONS = {
    name: set(field.annotation.model_fields)
    for name, field in Run.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
}


class Config(Section):
    """A whole configuration, runs expanded."""

    corpus: dict[Name, Corpus]
    tokenizer: dict[Name, Tokenizer]
    run: dict[Name, Run]
    runs: Annotated[list[Name], Field(min_length=1)]


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
