"""Floating-point operations of training, as PaLM counts them (Chowdhery et al. 2022, appendix B)."""

import jax

from makelm import config


def flops_per_token(shape: config.Model, names: dict[str, jax.ShapeDtypeStruct]) -> int:
    """Returns the operations of training on one token: 6 N + 12 L N H T.

    The first N are the parameters without the embeddings that are only looked up, the second term is attention over
    the whole context.
    """
    tables = ("positions_TD",) if shape.tie_embeddings else ("positions_TD", "embedding_VD")
    looked_up = sum(names[table].size for table in tables if table in names)
    computing = sum(leaf.size for leaf in names.values()) - looked_up
    return 6 * computing + 12 * shape.n_layers * shape.n_heads * shape.d_head * shape.context_length
