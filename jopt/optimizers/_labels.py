"""Which parameters the spectral branch takes when only the model's names are known."""

from __future__ import annotations

import jax

from jopt.errors import ShapeError
from jopt.optimizers._text import align, describe_blocks
from jopt.transforms import Declared, MatrixSpecs, declared_specs, find_spec
from jopt.tree import PyTree, map_named, named_leaves, path_words

SPECTRAL = "spectral"
FALLBACK = "fallback"

# Runs of whole words. "lm head", "output head" and "gate bias" are covered by their
# last word; they are listed because they are the names to look for.
FALLBACK_WORDS = (
    *("embed", "embedding", "unembed", "wte", "wpe", "pos"),
    *("head", "lm head", "output head", "logits", "router", "gate bias"),
    *("norm", "ln", "scale", "bias"),
)
# "MultiHeadAttention" names a block of matrices and not an output head.
NEUTRAL_WORDS = ("multi head",)


def fallback_word(path: str) -> str | None:
    """The words for which a path belongs to the fallback, or None.

    Whole words only, after splitting at everything but letters and at camel case.

    >>> fallback_word("lm_head/kernel"), fallback_word("composer/vulnerable/kernel")
    ('head', None)
    >>> fallback_word("MultiHeadAttention_0/query/kernel") is None
    True
    """
    line = f" {' '.join(path_words(path))} "
    for words in NEUTRAL_WORDS:
        line = line.replace(f" {words} ", " | ")
    return next((words for words in FALLBACK_WORDS if f" {words} " in line), None)


def explain_label(
    path: str, leaf: jax.Array, declared: Declared | None = None
) -> tuple[str, str]:
    """The label of one parameter and the reason for it, from the `declared_specs`.

    >>> explain_label("mlp/kernel", jax.ShapeDtypeStruct((8, 4), "float32"))
    ('spectral', 'matrix 8x4')
    >>> explain_label("mlp/bias", jax.ShapeDtypeStruct((4,), "float32"))
    ('fallback', "word 'bias'")
    """
    word = fallback_word(path)
    if word is not None:
        return FALLBACK, f"word {word!r}"
    spec = find_spec(path, leaf.shape, declared)
    is_declared = declared is not None and path in declared
    if spec is None:
        if leaf.ndim < 2:
            return FALLBACK, f"{leaf.ndim} axes"
        if is_declared:
            return FALLBACK, "declared without a matrix view"
        if "conv" in path_words(path):
            return FALLBACK, "convolution that is not (height, width, in, out)"
        return SPECTRAL, "no matrix view is declared"  # an error at init
    try:
        blocks = spec.blocks(leaf.shape)
    except ShapeError:
        return SPECTRAL, "the declared view does not fit"  # an error at init
    is_depthwise = leaf.ndim == 4 and leaf.shape[2] == 1
    if is_depthwise and not is_declared:
        return FALLBACK, "depthwise convolution"
    if any(min(m, n) <= 1 for _, m, n in blocks):
        return FALLBACK, "smaller side 1"
    return SPECTRAL, "matrix " + describe_blocks(blocks)


def label_params(params: PyTree, matrix_specs: MatrixSpecs = None) -> PyTree:
    """Labels every parameter `spectral` or `fallback`, by its path and matrix view.

    `fallback`: a path with one of `FALLBACK_WORDS`; fewer than two axes; a smaller side
    of 1; a convolution that is depthwise or one-dimensional; a leaf that `matrix_specs`
    declares to be no matrix. Everything else is `spectral`; a leaf of three or more
    axes that no view is declared for is one of them, so that it is refused and not
    guessed.

    >>> import jax.numpy as jnp
    >>> label_params({"embed": jnp.zeros((9, 4)), "mlp": jnp.zeros((4, 8))})
    {'embed': 'fallback', 'mlp': 'spectral'}
    """
    declared = declared_specs(params, matrix_specs)
    return map_named(lambda path, leaf: explain_label(path, leaf, declared)[0], params)


def describe_labels(params: PyTree, matrix_specs: MatrixSpecs = None) -> str:
    """`label_params` as a table to print, with the reason for each label.

    >>> import jax.numpy as jnp
    >>> print(describe_labels({"embed": jnp.zeros((9, 4)), "mlp": jnp.zeros((4, 8))}))
    parameter  shape   label     reason
    embed      (9, 4)  fallback  word 'embed'
    mlp        (4, 8)  spectral  matrix 4x8
    """
    declared = declared_specs(params, matrix_specs)
    rows = [("parameter", "shape", "label", "reason")]
    for path, leaf in named_leaves(params).items():
        rows.append((path, str(leaf.shape), *explain_label(path, leaf, declared)))
    return align(rows)
