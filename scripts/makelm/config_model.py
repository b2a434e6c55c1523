"""The keys of the Transformer: its shape and its choices."""

from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from makelm.config_types import Count, Float, Int, Positive, Section


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
    head_dtype: Literal["float32", "bfloat16"]
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
