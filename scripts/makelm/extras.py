"""Packages that not everybody needs: the extras of pyproject.toml."""


def command(extra: str) -> str:
    """Returns what adds an extra to .venv, as uv.lock has it: what pip installs may move JAX to another version."""
    return f".venv/bin/uv sync --locked --inexact --extra {extra}"
