"""What a server counts, in Prometheus's format."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

FIRST = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)  # seconds
NEXT = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)


class Metrics:
    """Counters of one server."""

    def __init__(self):
        self.registry = CollectorRegistry()
        own = {"registry": self.registry, "namespace": "makelm"}
        self.requests = Counter("requests", "Requests answered", ["path", "status"], **own)
        self.read = Counter("prompt_tokens", "Tokens of prompts that were read", **own)
        self.written = Counter("generated_tokens", "Tokens written", **own)
        self.first = Histogram("time_to_first_token_seconds", "From a request to its first token", buckets=FIRST, **own)
        self.next = Histogram("time_per_token_seconds", "Of a text, after its first tokens", buckets=NEXT, **own)
        self.own = own

    def watch(self, name: str, what: str, value: Callable[[], float]) -> None:
        """Adds a number that is looked up whenever someone asks."""
        Gauge(name, what, **self.own).set_function(value)

    def text(self) -> bytes:
        """Returns all of them as they are now."""
        return generate_latest(self.registry)
