"""Where a matrix view comes from, and what is said when there is none."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

import jopt
from jopt.errors import ConfigError, ShapeError
from jopt.matrix import MatrixSpec
from jopt.transforms import find_spec, resolve_specs
from jopt.tree import path_words


def test_mapping_first_then_the_default():
    spec = MatrixSpec((1,), (0,))
    assert find_spec("w", (2, 3), {"w": spec}) is spec
    assert find_spec("v", (2, 3), {"w": spec}) == MatrixSpec((0,), (1,))
    assert find_spec("w", (2, 3), {"w": None}) is None


def test_function_decides_alone():
    assert find_spec("w", (2, 3), lambda path, shape: None) is None
    spec = find_spec("w", (2, 3, 4), lambda path, shape: MatrixSpec((0,), (1, 2)))
    assert spec.dims((2, 3, 4)) == (1, 2, 12)


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
