"""Routing by name: whole words, declared views, and the printed reasons."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
import pytest

import jopt
from jopt.matrix import MatrixSpec
from jopt.models import transformer_lm
from jopt.optimizers import label_params
from jopt.tree import map_named, named_leaves


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
    assert label("blocks/0/causal_conv/kernel", (4, 1, 64)) == "fallback"  # and causal
    assert label("ShortConv_0/kernel", (4, 1, 64)) == "fallback"
    assert label("conv/kernel", (5, 3, 3, 4, 8)) == "fallback"  # stacked, undeclared


def test_declared_convolutions():
    banks = {"conv/kernel": MatrixSpec((1, 2, 3), (4,))}
    assert label("conv/kernel", (5, 3, 3, 4, 8), banks) == "spectral"
    wide = {"conv/kernel": MatrixSpec((0, 1), (2,))}
    assert label("conv/kernel", (4, 8, 8), wide) == "spectral"
    by_depth = {"conv/kernel": MatrixSpec((0, 1, 2), (3,))}
    assert label("conv/kernel", (3, 3, 1, 8), by_depth) == "spectral"
    assert label("conv/kernel", (4, 1, 64), {"conv/kernel": None}) == "fallback"


def test_declared_views_decide():
    stacked_bias = {"mlp/b": MatrixSpec((1,), (2,))}
    assert label("mlp/b", (12, 1, 8), stacked_bias) == "fallback"
    scanned = {"mlp/w": MatrixSpec((1,), (2,))}
    assert label("mlp/w", (12, 8, 8), scanned) == "spectral"
    assert label("mlp/w", (8, 8), {"mlp/w": None}) == "fallback"
    assert label("mlp/w", (8, 8), lambda path, shape: None) == "fallback"


@pytest.mark.parametrize(
    ("path", "shape", "expected"),
    [
        ("mlp/w", (12, 8, 8), "spectral"),
        ("mlp/b", (12, 8), "fallback"),  # one axis without the declared stack axis
        ("mlp/gain", (12,), "fallback"),
        ("mlp/thin", (12, 8, 1), "fallback"),
    ],
)
def test_axes_are_counted_without_the_declared_stack_axis(path, shape, expected):
    params = {"mlp": {path.split("/")[1]: jnp.zeros(shape)}}
    labels = label_params(params, {"mlp": MatrixSpec((1,), (2,))})
    assert named_leaves(labels) == {path: expected}


def test_a_declaration_of_no_parameter_is_refused():
    params = {"mlp": jnp.zeros((8, 8))}
    for refuse in (
        lambda specs: label_params(params, specs),
        lambda specs: jopt.describe_labels(params, specs),
        lambda specs: jopt.muon(0.1, matrix_specs=specs).init(params),
    ):
        with pytest.raises(jopt.ConfigError, match=r"'mpl'.* did you mean 'mlp'"):
            refuse({"mpl": None})


@pytest.fixture(scope="module")
def scanned():
    """A scanned model with biases and a short convolution beside its own weights."""
    settings = {"num_layers": 3, "scan": True, "embed_dim": 8, "num_heads": 2}
    model = transformer_lm(settings)
    params, _ = jax.eval_shape(model.init, jax.random.key(0), None)
    extra = {"b": (3, 32), "causal_conv": (3, 4, 1, 8)}
    for name, shape in extra.items():
        params["blocks"]["mlp"][name] = jax.ShapeDtypeStruct(shape, "float32")
    none = dict.fromkeys(f"blocks/mlp/{name}" for name in extra)
    return params, model.matrix_specs | none


MATRICES = {
    "blocks/attn/q/kernel",
    "blocks/attn/k/kernel",
    "blocks/attn/v/kernel",
    "blocks/attn/o/kernel",
    "blocks/mlp/up/kernel",
    "blocks/mlp/down/kernel",
}


def spectral(labels):
    return {path for path, found in named_leaves(labels).items() if found == "spectral"}


def test_a_scanned_model_by_its_declared_views(scanned):
    params, specs = scanned
    assert spectral(label_params(params, specs)) == MATRICES
    text = jopt.describe_labels(params, specs)
    table = {line.split()[0]: line for line in text.splitlines()}
    assert table["blocks/attn/q/kernel"].endswith("spectral  matrix 3x 8x8")
    assert table["blocks/mlp/down/kernel"].endswith("spectral  matrix 3x 32x8")
    assert table["blocks/attn_norm/scale"].endswith("fallback  word 'norm'")
    assert table["blocks/mlp/b"].endswith("declared without a matrix view")
    assert table["embed/embedding"].endswith("fallback  word 'embed'")
    jopt.muon(0.1, matrix_specs=specs).init(jax.tree.map(jnp.ones_like, params))


def their_matrices(params, **options):
    """The parameters that Optax's Muon keeps momentum for."""
    tx = optax.contrib.muon(0.1, **options)
    state = tx.init(jax.tree.map(jnp.ones_like, params))
    return set(named_leaves(state.inner_states["muon"].inner_state[0].mu))


def test_what_two_axes_would_have_said(scanned):
    """Optax takes every leaf of two axes for a matrix, and nothing else."""
    params, _ = scanned
    assert their_matrices(params) == {  # and not one of MATRICES
        "embed/embedding",
        "head/kernel",
        "blocks/attn_norm/scale",
        "blocks/mlp_norm/scale",
        "blocks/mlp/b",
    }


def test_dimension_numbers_of_optax_route_as_they_do_there(scanned):
    """None is no matrix. A tree for Optax leaves out embeddings and heads by hand."""
    params, specs = scanned

    def numbers(path, leaf):
        spec = specs[path] if path.startswith("blocks") else None
        if spec is None:
            return None
        return optax.contrib.MuonDimensionNumbers(spec.reduction_axes, spec.output_axes)

    def tree(params):
        return map_named(numbers, params)

    theirs = their_matrices(params, muon_weight_dimension_numbers=tree)
    assert spectral(label_params(params, tree)) == theirs == MATRICES


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
