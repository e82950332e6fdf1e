"""Where a matrix view comes from, and what is said when there is none."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import optax
import pytest
from optax.contrib import MuonDimensionNumbers

import jopt
from jopt.errors import ConfigError, ShapeError
from jopt.matrix import MatrixSpec
from jopt.transforms import declared_specs, find_spec, read_specs, resolve_specs
from jopt.tree import named_leaves, path_words

IN_OUT = MatrixSpec((0,), (1,))
OUT_IN = MatrixSpec((1,), (0,))
STACK = MatrixSpec((1,), (2,))

PARAMS = {
    "embed": jnp.zeros((9, 4)),
    "blocks": {
        "attn": {"q": jnp.zeros((3, 4, 2, 2)), "o": jnp.zeros((3, 2, 2, 4))},
        "mlp": {"up": jnp.zeros((3, 4, 8)), "b": jnp.zeros((3, 8))},
    },
}
PATHS = sorted(named_leaves(PARAMS))


def fault(specs, tree=PARAMS):
    with pytest.raises(ConfigError) as error:
        declared_specs(tree, specs)
    return str(error.value)


def test_mapping_first_then_the_default():
    spec = MatrixSpec((1,), (0,))
    assert find_spec("w", (2, 3), {"w": spec}) is spec
    assert find_spec("v", (2, 3), {"w": spec}) == MatrixSpec((0,), (1,))
    assert find_spec("w", (2, 3), {"w": None}) is None


def test_function_decides_alone():
    views = {"embed": None, "blocks/mlp/up": STACK}
    declared = declared_specs(PARAMS, lambda path, shape: views.get(path))
    assert sorted(declared) == PATHS  # nothing is left to the default
    assert {p: s for p, s in declared.items() if s} == {"blocks/mlp/up": STACK}


def test_function_is_given_paths_and_shapes():
    seen = {}
    declared_specs(PARAMS, lambda path, shape: seen.update({path: shape}))
    assert seen == {path: leaf.shape for path, leaf in named_leaves(PARAMS).items()}


@pytest.mark.parametrize(
    "specs",
    [
        {"embed": OUT_IN, "blocks/mlp/up": STACK, "blocks/mlp/b": None},
        {"embed": OUT_IN, "blocks": {"mlp": {"up": STACK, "b": None}}},
        {"embed": OUT_IN, "blocks/mlp": {"up": STACK, "b": None}},
        {"embed": MuonDimensionNumbers(1, 0), "blocks/mlp": MuonDimensionNumbers(1, 2)},
        lambda params: {"embed": OUT_IN, "blocks": {"mlp": STACK}},
        functools.partial(
            lambda specs, params: specs, {"embed": OUT_IN, "blocks/mlp": STACK}
        ),
    ],
    ids=["flat", "nested", "mixed", "optax", "function", "partial"],
)
def test_one_declaration_in_all_its_forms(specs):
    assert declared_specs(PARAMS, specs) == {
        "embed": OUT_IN,
        "blocks/mlp/up": STACK,
        "blocks/mlp/b": None,
    }


def test_a_tree_like_the_parameters():
    like = jax.tree.map(lambda leaf: STACK if leaf.ndim > 2 else None, PARAMS)
    declared = declared_specs(PARAMS, like)
    assert sorted(declared) == PATHS
    assert [path for path in PATHS if declared[path] is None] == [
        "blocks/mlp/b",
        "embed",
    ]
    lists = {"layers": [jnp.zeros((2, 3)), jnp.zeros((2, 3))]}
    assert declared_specs(lists, {"layers": [OUT_IN, None]}) == {
        "layers/0": OUT_IN,
        "layers/1": None,
    }


def test_one_view_for_all():
    assert set(declared_specs(PARAMS, MatrixSpec((-2,), (-1,)))) == set(PATHS)
    assert declared_specs(jnp.zeros((2, 3)), OUT_IN) == {"": OUT_IN}


def test_none_of_a_function_of_the_parameters_is_no_matrix_anywhere():
    assert declared_specs(PARAMS, lambda params: None) == dict.fromkeys(PATHS)
    assert declared_specs(PARAMS, None) == {}


@pytest.mark.parametrize(
    ("shape", "is_matrix"), [((3, 4, 8), True), ((3, 8), False), ((8,), False)]
)
def test_a_view_for_several_leaves_passes_over_vectors(shape, is_matrix):
    """Fewer than two axes once the declared stack axis is gone."""
    declared = declared_specs({"blocks": {"w": jnp.zeros(shape)}}, {"blocks": STACK})
    assert declared == {"blocks/w": STACK if is_matrix else None}
    exact = declared_specs({"blocks": {"w": jnp.zeros(shape)}}, {"blocks/w": STACK})
    assert exact == {"blocks/w": STACK}  # and does not fit: an error of its own


def test_a_view_that_needs_more_axes_than_a_matrix_below_it_has_is_an_error():
    heads = {"blocks": MatrixSpec((1,), (2, 3))}
    with pytest.raises(ShapeError, match=r"blocks/up.*axis 3 is outside"):
        resolve_specs({"blocks": {"up": jnp.zeros((3, 4, 8))}}, heads)


def test_mixed_signs_of_axes():
    declared = declared_specs(
        {"a": {"b": jnp.zeros(3)}}, {"a": MatrixSpec((0,), (-1,))}
    )
    assert declared == {"a/b": None}


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        ({"blocks/mlp/upp": STACK}, "'blocks/mlp/upp', which is no .*'blocks/mlp/up'"),
        ({"block": STACK}, "'block', which is no parameter; did you mean 'blocks'"),
        ({"blocks/ml": STACK}, "'blocks/ml', which is no parameter"),  # whole keys only
        ({"blocks/": STACK}, "'blocks/', which is no parameter"),
        ({"embed": {"kernel": IN_OUT}}, "'embed/kernel', which is no parameter"),
        (
            {"blocks": STACK, "blocks/mlp": None},
            "covers 'blocks/mlp/b' by 'blocks' and by 'blocks/mlp'; keep one",
        ),
        ({"a/b": STACK, "a": {"b": STACK}}, "'a/b' twice"),
        ({"embed": (0, 1)}, "'embed/0': expected a MatrixSpec .* found 0"),
        (
            lambda path, shape: "dense",
            "'embed': expected a MatrixSpec .* found 'dense'",
        ),
    ],
)
def test_what_cannot_be_meant_is_named(specs, message):
    with pytest.raises(ConfigError, match=message):
        declared_specs(PARAMS, specs)


def test_all_faults_come_at_once_and_once():
    message = fault({"blocks": STACK, "blocks/mlp": None, "emb": None, "x": 3})
    assert len(message.splitlines()) == 3
    _, faults = read_specs(PARAMS, {"emb": None, "embd": None})
    assert len(faults) == 2


@pytest.mark.parametrize("hole", [None, optax.MaskedNode()])
def test_what_a_wrapper_has_masked_is_known(hole):
    specs = {"embed": OUT_IN, "blocks/mlp/up": STACK, "blocks/attn": None}
    masked = {**PARAMS, "embed": hole, "blocks": {**PARAMS["blocks"], "attn": hole}}
    assert declared_specs(masked, specs) == {"blocks/mlp/up": STACK}
    assert declared_specs({"embed": PARAMS["embed"], "blocks": hole}, specs) == {
        "embed": OUT_IN
    }
    assert "'embd'" in fault({"embd": None}, masked)


def test_a_module_that_can_be_called_is_a_tree():
    @jax.tree_util.register_dataclass
    @dataclasses.dataclass
    class Layer:
        w: object

        def __call__(self, x):
            return x

    assert declared_specs(Layer(jnp.zeros((2, 3))), Layer(OUT_IN)) == {"w": OUT_IN}


@pytest.mark.parametrize("path", ["conv/kernel", "Conv_0/kernel", "stem.conv1.weight"])
def test_four_axes_under_the_word_conv_are_hwio(path):
    assert find_spec(path, (3, 3, 2, 8)).dims((3, 3, 2, 8)) == (1, 18, 8)


@pytest.mark.parametrize("path", ["convert/kernel", "experts/kernel"])
def test_four_axes_elsewhere_are_not_guessed(path):
    assert find_spec(path, (3, 3, 2, 8)) is None


def test_every_leaf_without_a_view_is_named_at_init():
    params = {
        "scanned": jnp.zeros((3, 4, 5)),
        "bias": jnp.zeros(4),
        "ids": jnp.zeros((2, 2), jnp.int32),
        "fine": jnp.zeros((2, 2)),
        "fused": jnp.zeros((2, 6)),
    }
    specs = {"fused": MatrixSpec((0,), (1,), split=(3, 2))}
    tx = jopt.scale_by_orthogonalization(matrix_specs=specs)
    with pytest.raises(ShapeError) as error:
        tx.init(params)
    message = str(error.value)
    for text in (
        "scanned float32[3, 4, 5]: no matrix view",
        "bias float32[4]: no matrix view",
        "ids int32[2, 2]: not a floating array",
        "fused float32[2, 6]: MatrixSpec.split",
        "matrix_specs={path: MatrixSpec",
    ):
        assert text in message
    assert "fine" not in message
    with pytest.raises(ShapeError, match="scanned"):
        jopt.scale_by_shape().init(params)


def test_a_bare_array_is_named_root():
    with pytest.raises(ShapeError, match=r"\(root\) float32\[3\]"):
        resolve_specs(jnp.zeros(3))


def test_two_leaves_of_one_name_are_refused():
    params = {"a/b": jnp.zeros((2, 2)), "a": {"b": jnp.zeros((2, 2))}}
    with pytest.raises(ConfigError, match="a/b"):
        jopt.scale_by_orthogonalization().init(params)


def test_shapes_without_values_are_enough():
    specs = resolve_specs({"w": jax.ShapeDtypeStruct((2, 3), "float32")})
    assert specs == {"w": MatrixSpec((0,), (1,))}


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("blocks/3/attn/q_proj/kernel", ["blocks", "attn", "q", "proj", "kernel"]),
        ("LayerNorm_0/scale", ["layer", "norm", "scale"]),
        ("LMHead.weight", ["lm", "head", "weight"]),
        ("ln1/tokenEmbed", ["ln", "token", "embed"]),
        ("MLP/RMSNorm", ["mlp", "rms", "norm"]),
    ],
)
def test_words_of_a_path(path, words):
    assert list(path_words(path)) == words
