"""The typed configuration: every key, its type, its bounds and how keys must agree. Values live in YAML only.

Keys are of two kinds. Result keys decide what comes out of a stage; execution keys (marked EXECUTION)
decide how it runs: they are recorded, and changing them reruns nothing.
"""

import difflib
import re
from fractions import Fraction as Ratio
from math import lcm
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PlainValidator,
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
HUB_NAME = r"^[\w.-]+(/[\w.-]+)?$"  # of a model on the Hugging Face hub


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


Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class TextKey(Section):
    """The columns of a row that are its text, and what stands between them."""

    columns: Annotated[list[Text], Field(min_length=1)]
    separator: str


def text_key(value: Any) -> Any:
    """Reads a column's name, or the columns and their separator."""
    if isinstance(value, dict | TextKey):
        return value
    if not isinstance(value, str):
        raise PydanticCustomError("text_key", "input should be a column's name, or {columns: [...], separator: ...}")
    return {"columns": [value], "separator": ""}


AnyTextKey = Annotated[TextKey, BeforeValidator(text_key)]


class EvaluationTexts(Section):
    """Files and folders of this machine that training documents are compared with, as validation documents are."""

    paths: Annotated[list[Text], Field(min_length=1)]
    text_key: AnyTextKey


class Clean(Section):
    """What is done to documents, in this order; null or false: nothing."""

    ftfy: Literal["repair", "all"] | None
    normalize: Literal["NFC", "NFKC"] | None
    min_bytes: Count | None
    max_bytes: Count | None
    min_unique_words: Count | None
    max_repeated_lines: Fraction | None
    max_repeated_5grams: Fraction | None
    max_top_2gram: Fraction | None
    deduplicate: bool
    max_contamination: Fraction | None
    evaluation_texts: EvaluationTexts | None


class Split(Section):
    """How many documents are taken, how they are cleaned, and how they are divided into train and validation."""

    max_documents: Count | None
    clean: Clean | None
    shards: Count
    split: Literal["hash", "tail"]
    valid_fraction: Annotated[Float, Field(gt=0, lt=1)]


class StdlibCorpus(Split):
    """The source text of the Python standard library of the interpreter that runs the stage."""

    source: Literal["stdlib"]


def as_list(value: Any) -> Any:
    """Reads one value as a list of it."""
    return [value] if isinstance(value, str) else value


class LocalCorpus(Split):
    """Files and folders on this machine: one document per .txt or .md file or other text, one per row of .jsonl and
    .parquet; each compressed or not, and in archives of tar.
    """

    source: Literal["local"]
    paths: Annotated[list[Text], Field(min_length=1)]
    text_key: AnyTextKey


Address = Annotated[str, Field(pattern=r"^(https?|file)://")]


class UrlCorpus(Split):
    """Files from the network, of the same kinds, each known by its sha256; one, or as many sums as addresses."""

    source: Literal["url"]
    url: Annotated[list[Address], Field(min_length=1), BeforeValidator(as_list)]
    sha256: Annotated[list[Sha256], BeforeValidator(as_list)]
    text_key: AnyTextKey

    @model_validator(mode="after")
    def check(self) -> "UrlCorpus":
        if len(self.url) != len(self.sha256):
            raise PydanticCustomError(
                "sums",
                "sha256 needs one sum for each address of url, got {s} for {n}",
                {"s": len(self.sha256), "n": len(self.url)},
            )
        return self


class DatasetsCorpus(Split):
    """A data set of the Hugging Face hub, or a local folder that `datasets` can load."""

    source: Literal["huggingface"]
    dataset: Text
    subset: Text | None
    revision: Text | None
    dataset_split: Text
    streaming: Annotated[bool, EXECUTION]  # the rows are the same
    text_key: AnyTextKey


NUMBERS = re.compile(r"\{(\d+)\.\.(\d+)\}")


def numbered(names: Any) -> Any:
    """Reads a_{08..10}.bin as a_08.bin, a_09.bin, a_10.bin."""
    if not isinstance(names, list):
        return names
    found = []
    for name in names:
        if isinstance(name, str) and (numbers := NUMBERS.search(name)):
            first, last = numbers.groups()
            each = (f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1))
            found += [NUMBERS.sub(number, name, count=1) for number in each]
        else:
            found.append(name)
    return found


TokenFiles = Annotated[list[Text], BeforeValidator(numbered), Field(min_length=1)]


class TokensCorpus(Section):
    """Token ids that others made: paths and URLs, or files of a data set of the hub. Each is a shard."""

    source: Literal["tokens"]
    repository: Annotated[str, Field(pattern=r"^[\w.-]+(/[\w.-]+)?$")] | None
    revision: Text | None
    train: TokenFiles
    valid: TokenFiles
    dtype: Literal["uint16", "uint32"] | None
    sha256: dict[Text, Sha256]

    @property
    def files(self) -> list[str]:
        """Returns all files, as they are named here."""
        return [*self.train, *self.valid]

    @property
    def shards(self) -> int:
        """Returns how many shards there are; a part that has fewer files is empty in the last ones."""
        return max(len(self.train), len(self.valid))

    @model_validator(mode="after")
    def check(self) -> "TokensCorpus":
        twice = next((name for name in self.files if self.files.count(name) > 1), None)
        if twice:
            raise PydanticCustomError("twice", "{name} is named twice in train and valid", {"name": twice})
        unknown = next((name for name in self.sha256 if name not in self.files), None)
        if unknown:
            hint = did_you_mean(unknown, self.files)
            raise PydanticCustomError(
                "sha256", "sha256: neither train nor valid has {name}{hint}", {"name": repr(unknown), "hint": hint}
            )
        if self.revision and not self.repository:
            raise PydanticCustomError("revision", "revision is that of a repository, and null without one")
        unsafe = next((name for name in self.files if is_address(name) and name not in self.sha256), None)
        if unsafe and not self.repository:
            raise PydanticCustomError(
                "sum", "sha256 must have the sum of {name}, which nothing else checks", {"name": unsafe}
            )
        return self


def is_address(name: str) -> bool:
    """Returns whether a name is a URL and no path."""
    return name.startswith(("http://", "https://", "file://"))


CORPORA = {
    "stdlib": StdlibCorpus,
    "local": LocalCorpus,
    "url": UrlCorpus,
    "huggingface": DatasetsCorpus,
    "tokens": TokensCorpus,
}


def corpus_source(data: Any) -> Any:
    """Returns the source of a corpus, which decides what keys it has."""
    return data.get("source") if isinstance(data, dict) else getattr(data, "source", None)


Corpus = Annotated[
    Annotated[StdlibCorpus, Tag("stdlib")]
    | Annotated[LocalCorpus, Tag("local")]
    | Annotated[UrlCorpus, Tag("url")]
    | Annotated[DatasetsCorpus, Tag("huggingface")]
    | Annotated[TokensCorpus, Tag("tokens")],
    Discriminator(corpus_source),
]

# ---- tokenizers


class OwnTokenizer(Section):
    """A vocabulary of its own, in which chosen tokens stand before and after each document."""

    begin_of_text: bool
    end_of_text: bool


class BpeTokenizer(OwnTokenizer):
    """Byte-pair encoding learned from a corpus's training documents."""

    kind: Literal["bpe"]
    corpus: Name
    sample_bytes: Count | None
    vocab_size: Annotated[Int, Field(ge=257, le=2**31 - 1)]
    pattern: Text

    @model_validator(mode="after")
    def check(self) -> "BpeTokenizer":
        if self.vocab_size < 256 + self.begin_of_text + self.end_of_text:
            raise PydanticCustomError("vocab", "vocab_size must have room for 256 bytes and the tokens chosen beside")
        try:
            re.compile(self.pattern) if "\\p" not in self.pattern else None
        except re.error as error:
            raise PydanticCustomError("pattern", "pattern is no regular expression: {e}", {"e": str(error)}) from error
        return self


class ByteTokenizer(OwnTokenizer):
    """The bytes of a text are its ids."""

    kind: Literal["byte"]


class CharTokenizer(OwnTokenizer):
    """The characters of a corpus's training documents, numbered."""

    kind: Literal["char"]
    corpus: Name


class TiktokenTokenizer(Section):
    """One of tiktoken's encodings. Its one token for both ends stands before or after each document, or not at all."""

    kind: Literal["tiktoken"]
    encoding: Literal["gpt2", "p50k_base", "cl100k_base", "o200k_base"]
    file: Annotated[Text | None, EXECUTION]  # must be the encoding's own ranks, so it decides no more than where from
    encoder: Annotated[Literal["tiktoken", "gigatoken"], EXECUTION]  # both make the same ids
    begin_of_text: bool
    end_of_text: bool

    @model_validator(mode="after")
    def check(self) -> "TiktokenTokenizer":
        if self.begin_of_text and self.end_of_text:
            raise PydanticCustomError(
                "ends", "begin_of_text and end_of_text are one token here, <|endoftext|>: set one of them to false"
            )
        if self.encoder == "gigatoken" and self.encoding == "p50k_base":
            raise PydanticCustomError("encoder", "encoder: gigatoken does not know p50k_base; set it to tiktoken")
        return self


class HuggingFaceTokenizer(Section):
    """A tokenizer.json: a file of this machine or that of a model on the hub."""

    kind: Literal["huggingface"]
    file: Text | None
    repository: Annotated[str, Field(pattern=HUB_NAME)] | None
    revision: Text | None
    begin_of_text: Text | None  # which of its tokens
    end_of_text: Text | None

    @model_validator(mode="after")
    def check(self) -> "HuggingFaceTokenizer":
        if (self.file is None) == (self.repository is None):
            raise PydanticCustomError("where", "kind: huggingface needs one of file and repository, the other null")
        if self.revision and self.file:
            raise PydanticCustomError("where", "revision is for a repository; set it to null")
        return self


class SentencePieceTokenizer(Section):
    """A SentencePiece model, a file of this machine."""

    kind: Literal["sentencepiece"]
    file: Text
    begin_of_text: bool
    end_of_text: bool


TOKENIZERS = {
    "bpe": BpeTokenizer,
    "byte": ByteTokenizer,
    "char": CharTokenizer,
    "tiktoken": TiktokenTokenizer,
    "huggingface": HuggingFaceTokenizer,
    "sentencepiece": SentencePieceTokenizer,
}

LEARNED = (BpeTokenizer, CharTokenizer)  # from a corpus

Tokenizer = Annotated[
    BpeTokenizer | ByteTokenizer | CharTokenizer | TiktokenTokenizer | HuggingFaceTokenizer | SentencePieceTokenizer,
    Field(discriminator="kind"),
]

# ---- weights of others


class LocalWeights(Section):
    """A folder in the layout of Hugging Face: config.json and *.safetensors."""

    source: Literal["local"]
    path: Text


class HubWeights(Section):
    """A model of the Hugging Face hub, its safetensors only."""

    source: Literal["huggingface"]
    repository: Annotated[str, Field(pattern=HUB_NAME)]
    revision: Text | None


WEIGHTS = {"local": LocalWeights, "huggingface": HubWeights}

Weights = Annotated[LocalWeights | HubWeights, Field(discriminator="source")]

# ---- tasks


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


# ---- runs


class Norm(Section):
    """What keeps the residual stream in bounds: RMSNorm (Zhang & Sennrich 2019) or LayerNorm (Ba et al. 2016)."""

    kind: Literal["rmsnorm", "layernorm"]
    scale: bool
    bias: bool
    eps: Positive


class Positions(Section):
    """How the model knows the order of tokens: turned queries and keys (RoPE), a learned vector each, or not at all."""

    kind: Literal["rope", "learned", "none"]
    base: Positive
    dims: Annotated[Int, Field(ge=2, multiple_of=2)] | None
    pairs: Literal["halves", "interleaved"]


class Biases(Section):
    """Which layers add a learned vector."""

    attention: bool
    mlp: bool
    head: bool


class Model(Section):
    """The Transformer: its shape and its choices."""

    context_length: Count
    n_layers: Count
    d_model: Count
    n_heads: Count
    n_kv_heads: Count
    d_head: Annotated[Int, Field(ge=2, multiple_of=2)]
    d_ff: Count
    vocab_multiple: Count
    norm: Norm
    qk_norm: Literal["rmsnorm", "layernorm"] | None
    positions: Positions
    activation: Literal["gelu_tanh", "gelu", "relu_squared", "swiglu", "swiglu_layer"]
    residual: Literal["serial", "parallel"]
    biases: Biases
    tie_embeddings: bool
    logit_soft_cap: Positive | None
    dropout: Annotated[Float, Field(ge=0, lt=1)]
    mask_documents: bool
    init: Literal["zero_out", "fan_in", "xavier", "gpt2", "gptj", "uniform"]
    compute_dtype: Literal["float32", "bfloat16"]
    residual_dtype: Literal["float32", "bfloat16"]
    parameter_dtype: Literal["float32", "bfloat16"]

    @model_validator(mode="after")
    def check(self) -> "Model":
        if self.n_heads % self.n_kv_heads:
            raise PydanticCustomError(
                "heads",
                "n_heads must be a multiple of n_kv_heads, got {n} and {k}",
                {"n": self.n_heads, "k": self.n_kv_heads},
            )
        if (self.positions.dims or 0) > self.d_head:
            raise PydanticCustomError(
                "dims", "positions.dims must be at most d_head, got {n}", {"n": self.positions.dims}
            )
        if self.biases.mlp and self.activation in ("swiglu", "swiglu_layer"):
            raise PydanticCustomError("bias", "biases.mlp is for activations without a gate; set it to false")
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

    attention: Annotated[Literal["xla", "cudnn"], EXECUTION]
    scan_layers: Annotated[bool, EXECUTION]
    remat: Annotated[bool, EXECUTION]
    accumulate: Annotated[Count, EXECUTION]


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
    rate_multipliers: dict[Text, Positive]
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
    steps: Count
    batch_size: Count
    order: Literal["shuffled", "random", "packed"]
    optimizer: Optimizer
    schedule: Schedule
    z_loss: NonNegative
    ema: Annotated[Float, Field(gt=0, lt=1)] | None
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
        return self


class Tracking(Section):
    """Where the numbers of a training go beside its own files and TensorBoard's."""

    wandb: Annotated[Literal["online", "offline"] | None, EXECUTION]
    project: Annotated[Text, EXECUTION]
    entity: Annotated[Text | None, EXECUTION]


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


def prompt(value: Any) -> str | dict[str, Any]:
    """Reads a text, a file of prompts, or how many validation documents and how many tokens of each."""
    keys = set(value) if isinstance(value, dict) else None
    if isinstance(value, str) or (keys == {"file"} and isinstance(value["file"], str) and value["file"]):
        return value
    if keys == {"validation", "tokens"}:
        counts = {key: whole_number(number) for key, number in value.items()}
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
    temperature: NonNegative
    top_k: Count | None
    top_p: Annotated[Float, Field(gt=0, le=1)] | None
    min_p: Fraction | None
    repetition_penalty: Positive | None
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


class Export(Section):
    """What is handed to other people's code."""

    dtype: Literal["float32", "bfloat16"]


PARTS = 100_000  # that the weights of a mixture may be whole numbers of


def corpus_weights(value: Any) -> str | dict[str, float]:
    """Reads a corpus's name, or names with weights, which are made to come to 1; one alone is that name."""
    if isinstance(value, str):
        return value
    if not isinstance(value, dict) or not value:
        raise PydanticCustomError("corpus", "input should be a corpus's name, or names with weights")
    ratios = {str(name): Ratio(str(number(weight))) for name, weight in value.items() if is_weight(name, weight)}
    exact = {name: ratio / sum(ratios.values()) for name, ratio in ratios.items()}
    # what came to 1 before was rounded to a float
    shares = {name: share.limit_denominator(PARTS) for name, share in exact.items()}
    rounded = any(abs(shares[name] - share) > 1e-12 for name, share in exact.items())
    if rounded or sum(shares.values()) != 1 or lcm(*(share.denominator for share in shares.values())) > PARTS:
        raise PydanticCustomError(
            "weights", "the weights are whole parts of no number up to {n}; round them", {"n": f"{PARTS:,}"}
        )
    return {name: float(shares[name]) for name in sorted(shares)} if len(shares) > 1 else next(iter(shares))


def is_weight(name: Any, weight: Any) -> bool:
    """Returns true, or raises where it is none."""
    weight = number(weight)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < float("inf"):
        raise PydanticCustomError(
            "weight",
            "the weight of {n} should be a number greater than 0, got {w}",
            {"n": str(name), "w": repr(weight)},
        )
    return True


class Mixed(Section):
    """What reads the text of a run."""

    corpus: Annotated[str | dict[str, float], PlainValidator(corpus_weights)]

    @property
    def corpora(self) -> dict[str, float]:
        """Returns each corpus's share of the tokens that are trained on; together 1."""
        return {self.corpus: 1.0} if isinstance(self.corpus, str) else self.corpus


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
    if compute.attention == "cudnn" and model.compute_dtype != "bfloat16":
        raise PydanticCustomError(
            "attention",
            "compute.attention: cudnn needs model.compute_dtype: bfloat16, got {d}",
            {"d": model.compute_dtype},
        )
    if train.batch_size % compute.accumulate:
        raise PydanticCustomError(
            "accumulate",
            "train.batch_size must be a multiple of compute.accumulate, got {b} and {a}",
            {"b": train.batch_size, "a": compute.accumulate},
        )


RUN_SECTIONS = {
    name: set(field.annotation.model_fields)
    for name, field in Run.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
}


# ---- clusters


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


class Config(Section):
    """A whole configuration, runs expanded."""

    corpus: dict[Name, Corpus]
    weights: dict[Name, Weights]
    tokenizer: dict[Name, Tokenizer]
    task: dict[Name, Task]
    run: dict[Name, Run]
    cluster: Annotated[Cluster | None, EXECUTION]
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
