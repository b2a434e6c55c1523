"""What is served: a model, and how."""

from collections.abc import Callable
from dataclasses import dataclass

from makelm.serving_engine import Writer
from makelm.serving_metrics import Metrics
from makelm.serving_requests import Limits
from makelm.tokenizer import Tokenizer


@dataclass(frozen=True)
class Service:
    """A model and how it is served."""

    model: dict  # what /v1/models says of it
    encoding: Tokenizer
    writer: Writer
    metrics: Metrics
    limits: Limits
    page: str
    token: str | None  # which clients must show; None: no client must
    hosts: frozenset[str] | None  # names that this server may be called by; None: any
    origins: tuple[str, ...]  # whose pages may ask
    log: Callable[[str], None]

    @property
    def id(self) -> str:
        return self.model["id"]
