"""Routing by name: whole words, declared views, and the printed reasons."""

from __future__ import annotations

import jax.numpy as jnp
import pytest

import jopt
from jopt.matrix import MatrixSpec
from jopt.optimizers import label_params


def label(path, shape, specs=None):
    return label_params({path: jnp.zeros(shape)}, specs)[path]


@pytest.mark.parametrize(
    "path",
    [
        "embed/table",
        "tokenEmbedding/kernel",
        "lm_head/kernel",
        "LMHead_0/kernel",
        "model.output_head.weight",
        "unembed",
        "logits/kernel",
        "moe/router/kernel",
        "gate_bias",
        "LayerNorm_0/scale",
        "ln1/kernel",
        "pos/table",
        "wte",
        "wpe",
        "attn/bias",
    ],
)
def test_words_that_go_to_the_fallback(path):
    assert label(path, (8, 8)) == "fallback"


@pytest.mark.parametrize(
    "path",
    [
        "blocks/3/attn/q/kernel",
        "vulnerable/kernel",
        "composer/kernel",
        "headers/kernel",
        "attn/heads/q",
        "rescaled/kernel",
        "MultiHeadAttention_0/query/kernel",
        "multi_head_attention/out/kernel",
    ],
)
def test_substrings_and_multi_head_stay_spectral(path):
    assert label(path, (8, 8)) == "spectral"


def test_a_head_inside_a_multi_head_module_is_still_a_head():
    assert label("multi_head_attention/head/kernel", (8, 8)) == "fallback"


@pytest.mark.parametrize("shape", [(8,), (), (1, 8), (8, 1)])
def test_vectors_and_thin_matrices_go_to_the_fallback(shape):
    assert label("mlp/w", shape) == "fallback"


def test_convolutions():
    assert label("conv/kernel", (3, 3, 4, 8)) == "spectral"
    assert label("conv/kernel", (3, 3, 1, 8)) == "fallback"  # depthwise
    assert label("conv/kernel", (4, 8, 8)) == "fallback"  # one-dimensional


def test_declared_views_decide():
    stacked_bias = {"mlp/b": MatrixSpec((1,), (2,))}
    assert label("mlp/b", (12, 1, 8), stacked_bias) == "fallback"
    scanned = {"mlp/w": MatrixSpec((1,), (2,))}
    assert label("mlp/w", (12, 8, 8), scanned) == "spectral"
    assert label("mlp/w", (8, 8), {"mlp/w": None}) == "fallback"
    assert label("mlp/w", (8, 8), lambda path, shape: None) == "fallback"


def test_an_undeclared_stack_is_refused_and_not_guessed():
    assert label("mlp/w", (12, 8, 8)) == "spectral"
    with pytest.raises(jopt.ShapeError, match="mlp/w"):
        jopt.muon(0.1).init({"mlp": {"w": jnp.zeros((12, 8, 8))}})


def test_description_gives_each_reason():
    text = jopt.describe_labels(
        {"embed": jnp.zeros((9, 4)), "mlp": jnp.zeros((4, 8)), "v": jnp.zeros(3)}
    )
    assert text.splitlines() == [
        "parameter  shape   label     reason",
        "embed      (9, 4)  fallback  word 'embed'",
        "mlp        (4, 8)  spectral  matrix 4x8",
        "v          (3,)    fallback  1 axes",
    ]
