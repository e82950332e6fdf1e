"""From torch to Flax and back: layouts as forward passes see them, names by rules."""

from __future__ import annotations

import numpy as np
import pytest

from jopt.errors import ConfigError
from jopt.matrix import MatrixSpec
from jopt.weights import Leaf, NamedWeights, plain_layout, rules_from, torch_layout


class InMemory:
    """Arrays in the place of a file."""

    path = "memory"
    files = ()

    def __init__(self, tensors):
        self.tensors = tensors
        self.leaves = {name: Leaf(x.shape, x.dtype) for name, x in tensors.items()}
        self.metadata = {}
        self.reads = []

    def read(self, name):
        self.reads.append(name)
        return self.tensors[name]

    def close(self):
        pass


def named(tensors, rules):
    weights = InMemory(tensors)
    return NamedWeights(weights, torch_layout(weights.leaves, rules_from(rules)))


@pytest.fixture
def flax(tensors, rules):
    weights = named(tensors, rules)
    return {leaf: weights.read(leaf) for leaf in weights.leaves}


def test_every_tensor_comes_back_bit_for_bit(tensors, rules):
    weights = named(tensors, rules)
    for piece in weights.pieces:
        if piece.leaves:
            back = piece.join([weights.read(leaf) for leaf in piece.leaves])
            assert back.dtype == np.float32
            assert np.array_equal(back, tensors[piece.source]), piece.source
    assert weights.weights.reads.count("layers.0.attn.in_proj_weight") == 1


def test_flax_names_and_shapes(flax):
    assert {leaf: x.shape for leaf, x in flax.items()} == {
        "batch_stats/norm/mean": (8,),
        "batch_stats/norm/var": (8,),
        "blocks/0/attn/key/bias": (3, 2),
        "blocks/0/attn/key/kernel": (6, 3, 2),
        "blocks/0/attn/out/bias": (6,),
        "blocks/0/attn/out/kernel": (3, 2, 6),
        "blocks/0/attn/query/bias": (3, 2),
        "blocks/0/attn/query/kernel": (6, 3, 2),
        "blocks/0/attn/value/bias": (3, 2),
        "blocks/0/attn/value/kernel": (6, 3, 2),
        "blocks/0/ln/bias": (6,),
        "blocks/0/ln/scale": (6,),
        "blocks/0/mlp/bias": (12,),
        "blocks/0/mlp/kernel": (6, 12),
        "cls": (1, 1, 6),
        "embed/embedding": (10, 6),
        "norm/bias": (8,),
        "norm/scale": (8,),
        "stem/bias": (8,),
        "stem/kernel": (5, 4, 3, 8),
    }


def test_a_linear_layer_and_a_convolution_compute_the_same(tensors, flax):
    x = np.random.default_rng(3).normal(size=(2, 6)).astype(np.float32)
    theirs = x @ tensors["layers.0.fc.weight"].T + tensors["layers.0.fc.bias"]
    ours = x @ flax["blocks/0/mlp/kernel"] + flax["blocks/0/mlp/bias"]
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)

    patch = np.random.default_rng(4).normal(size=(3, 5, 4))  # channels, height, width
    theirs = np.einsum("ihw,oihw->o", patch, tensors["stem.weight"])
    ours = np.einsum("hwi,hwio->o", np.moveaxis(patch, 0, -1), flax["stem/kernel"])
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_attention_computes_the_same(tensors, flax):
    """As `torch.nn.functional.multi_head_attention_forward` does it, step by step."""
    heads, width = 3, 2
    x = np.random.default_rng(5).normal(size=(4, 6))  # tokens, features
    fused = (
        x @ tensors["layers.0.attn.in_proj_weight"].T
        + tensors["layers.0.attn.in_proj_bias"]
    )
    q, k, v = (
        part.reshape(4, heads, width).transpose(1, 0, 2)
        for part in np.split(fused, 3, -1)
    )
    mixed = softmax(q @ k.transpose(0, 2, 1) / np.sqrt(width)) @ v
    theirs = (
        mixed.transpose(1, 0, 2).reshape(4, 6)
        @ tensors["layers.0.attn.out_proj.weight"].T
        + tensors["layers.0.attn.out_proj.bias"]
    )

    def project(name):
        at = f"blocks/0/attn/{name}"
        return np.einsum("td,dhk->thk", x, flax[f"{at}/kernel"]) + flax[f"{at}/bias"]

    scores = np.einsum("qhk,thk->hqt", project("query"), project("key"))
    mixed = np.einsum(
        "hqt,thk->qhk", softmax(scores / np.sqrt(width)), project("value")
    )
    ours = np.einsum("thk,hkd->td", mixed, flax["blocks/0/attn/out/kernel"])
    ours += flax["blocks/0/attn/out/bias"]
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_separate_projections_are_those_of_the_fused_one(tensors, flax):
    parts = np.split(tensors["layers.0.attn.in_proj_weight"], 3)
    linear = {
        "self.q_proj.weight": parts[0],
        "self.q_proj.bias": np.split(tensors["layers.0.attn.in_proj_bias"], 3)[0],
        "self.out_proj.weight": tensors["layers.0.attn.out_proj.weight"],
        "mha.v_proj_weight": parts[2],
    }
    rules = (
        {"match": r"self\.q_proj", "kind": "to_heads", "name": "query", "heads": 3},
        {"match": r"self\.out_proj", "kind": "from_heads", "name": "out", "heads": 3},
        {"match": "mha", "kind": "attention", "name": "mha", "heads": 3},
    )
    found = named(linear, rules)
    for leaf, same in (
        ("query/kernel", "query/kernel"),
        ("query/bias", "query/bias"),
        ("out/kernel", "out/kernel"),
        ("mha/value/kernel", "value/kernel"),
    ):
        assert np.array_equal(found.read(leaf), flax[f"blocks/0/attn/{same}"])
    for piece in found.pieces:
        (part,) = piece.split(linear[piece.source])
        assert np.array_equal(piece.join([part]), linear[piece.source])


def test_matrix_views_are_those_of_the_layers(tensors, rules):
    specs = named(tensors, rules).specs()
    attn = "blocks/0/attn"
    assert specs.keys() == named(tensors, rules).leaves.keys()
    # Biases of heads have two axes and are no matrices.
    assert {leaf: spec for leaf, spec in specs.items() if spec is not None} == {
        "stem/kernel": MatrixSpec((0, 1, 2), (3,)),
        "embed/embedding": MatrixSpec((0,), (1,)),
        "blocks/0/mlp/kernel": MatrixSpec((0,), (1,)),
        **{f"{attn}/{x}/kernel": MatrixSpec((0,), (1, 2)) for x in ("query", "key")},
        f"{attn}/value/kernel": MatrixSpec((0,), (1, 2)),
        f"{attn}/out/kernel": MatrixSpec((0, 1), (2,)),
    }


def test_tensors_without_a_rule_and_rules_without_a_tensor_are_listed(tensors, rules):
    some = [rule for rule in rules if rule["match"] != "embed"]
    some.append({"match": "head", "kind": "linear", "name": "head"})
    with pytest.raises(ConfigError) as caught:
        named(tensors, some)
    assert "1 tensors match no rule of names: embed.weight (10, 6)" in str(caught.value)
    assert "match no tensor: 'head' (linear)" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 4}, r"in_proj_weight \(18, 6\) does not fit .* with 4 heads"),
        ({"kind": "conv", "match": r"layers\.0\.fc"}, "fc.weight .* of kind conv"),
        ({"kind": "linear", "match": "stem"}, "stem.weight .* of kind linear"),
    ],
)
def test_a_rule_of_the_wrong_kind_names_the_tensor(tensors, rules, change, message):
    wrong = {"match": r"layers\.0\.attn", "kind": "attention", "name": "x", "heads": 3}
    wrong |= change
    if "heads" not in change:
        del wrong["heads"]
    with pytest.raises(ConfigError, match=message):
        named(tensors, (wrong, *rules))


def test_two_tensors_with_one_name_are_named(tensors, rules):
    twice = [{**rule, "name": "same"} for rule in rules if rule["kind"] == "raw"]
    more = {**tensors, "other": tensors["cls_token"]}
    twice.append({"match": "other", "kind": "raw", "name": "same"})
    rules = [rule for rule in rules if rule["kind"] != "raw"]
    with pytest.raises(ConfigError, match="cls_token and other both become same"):
        named(more, (*rules, *twice))


def test_all_faults_of_rules_are_listed_with_the_nearest_key():
    with pytest.raises(ConfigError) as caught:
        rules_from(
            [
                {"match": "a", "kind": "liner", "name": "a"},
                {"match": "(", "kind": "linear", "name": "a"},
                {"match": "a", "kind": "linear", "name": r"a\1", "haeds": 3},
                {"match": "a", "kind": "attention", "name": "a"},
                "a",
            ]
        )
    lines = str(caught.value).splitlines()
    assert "did you mean 'linear'?" in lines[0]
    assert "names[1].match '(' is no regular expression" in lines[1]
    assert "did you mean 'heads'?" in lines[2]
    assert "group 1, and match has 0" in lines[3]
    assert lines[4] == "names[3] of kind attention needs heads"
    assert lines[5].startswith("names[4] is 'a'; a dict")


@pytest.mark.parametrize(
    ("names", "leaves", "left_out"),
    [
        (["a.weight", "b"], ["a/weight", "b"], ()),
        (["a/k.x", "b"], ["a/k.x", "b"], ()),
        (
            ["params/a/k", "model_state/n/mean", "opt_state/mu", "step"],
            ["a/k", "batch_stats/n/mean"],
            ("opt_state/mu", "step"),
        ),
    ],
)
def test_names_without_rules(names, leaves, left_out):
    plain = plain_layout(names)
    assert [piece.leaves[0] for piece in plain.pieces] == leaves
    assert plain.left_out == left_out


def test_an_array_inside_an_array_is_named():
    weights = InMemory({"a": np.ones(1), "a.b": np.ones(1)})
    with pytest.raises(ConfigError, match="a is an array, and so is a/b inside it"):
        NamedWeights(weights, plain_layout(weights.leaves).pieces)
