"""Models of images: published sizes, what a convolution computes, batch statistics."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jopt.errors import ConfigError
from jopt.matrix import matrices
from jopt.models import RESNETS, VITS, build, cnn, mlp, nnx_model, resnet, vgg, vit
from jopt.models._images import CONV, conv, convolve, patches
from jopt.models._vit import ACTIVATIONS
from jopt.objectives import classification
from jopt.training._oracles import value_and_grad
from jopt.tree import count

KEY = jax.random.key(0)
IMAGENET = {"image_size": 224, "channels": 3, "num_classes": 1000}
SLOW = pytest.mark.slow
CIFAR = {"image_size": 32, "channels": 3}


def parameters(model):
    return count(jax.eval_shape(model.init, KEY, None)[0])


def vit_parameters(tokens, patch, width, layers, classes, cls):
    """Weights and biases of patches, blocks, norms and head, and the positions."""
    block = 4 * width * (width + 1) + 8 * width**2 + 5 * width + 4 * width
    ends = (patch + 1) * width + 2 * width + (width + 1) * classes
    return ends + layers * block + (tokens + cls) * width + cls * width


@pytest.mark.parametrize(
    ("build", "settings", "expected"),
    [
        # torchvision's models.
        (resnet, {**RESNETS["18"], **IMAGENET, "stem": "imagenet"}, 11_689_512),
        (resnet, {**RESNETS["50"], **IMAGENET, "stem": "imagenet"}, 25_557_032),
        (
            vgg,
            {**IMAGENET, "batch_norm": False, "hidden_head": (4096, 4096)},
            143_667_240,
        ),
        # timm's vit_small_patch16_224.
        (vit, {**VITS["s"], **IMAGENET, "patch_size": 16}, 22_050_664),
        # The visual tower of CLIP ViT-B/32, summed by hand: patches, class, positions,
        # three norms, twelve blocks, projection.
        (
            vit,
            VITS["clip_b32"],
            32**2 * 3 * 768
            + (1 + 50) * 768
            + (2 + 2) * 768
            + 12 * (12 * 768**2 + 13 * 768)
            + 768 * 512,
        ),
        # The usual models for CIFAR-10.
        pytest.param(resnet, {**RESNETS["18"], **CIFAR}, 11_173_962, marks=SLOW),
        pytest.param(vgg, CIFAR, 20_040_522, marks=SLOW),
        pytest.param(
            vgg, {**CIFAR, "batch_norm": False}, 20_040_522 - 2 * 5504, marks=SLOW
        ),
        pytest.param(
            vit,
            {**VITS["s"], **CIFAR},
            vit_parameters(64, 48, 384, 12, 10, 1),
            marks=SLOW,
        ),
        (
            vit,
            {**VITS["small"], "image_size": 28},
            vit_parameters(49, 16, 64, 4, 10, 0),
        ),
        # Four convolutions with biases and norms, 128 features.
        (
            cnn,
            {"channels": 2},
            (18 + 3) * 64 + (9 * 64 + 3) * 128 + 2 * (9 * 128 + 3) * 128 + 129 * 10,
        ),
    ],
)
def test_parameter_counts(build, settings, expected):
    assert parameters(build(settings)) == expected


def test_flops_count_every_product():
    """ResNet-18 on ImageNet: the published 1.8 billion multiplications, forward."""
    model = resnet({**RESNETS["18"], **IMAGENET, "stem": "imagenet"})
    assert model.flops_per_token(1) == pytest.approx(6 * 1.814e9, rel=1e-3)
    small = vit({"image_size": 8, "patch_size": 4, **VITS["small"], "num_layers": 1})
    weights = 4 * 64**2 + 2 * 64 * 256
    products = 16 * 4 * 64 + 4 * weights + 64 * 10 + 2 * 64 * 4**2
    assert small.flops_per_token(1) == 6 * products


@pytest.mark.parametrize(
    ("size", "stride"),
    [(3, 2), *(pytest.param(*x, marks=pytest.mark.slow) for x in ((7, 2), (1, 2)))],
)
def test_a_convolution_multiplies_its_patches(size, stride):
    """Y = A W with the tap as A and the view of the kernel as W, for odd images too."""
    model = nnx_model(
        lambda rngs: conv(
            2, 3, size, stride=stride, use_bias=False, dtype=jnp.float32, rngs=rngs
        ),
        call=lambda layer, batch, taps: convolve(layer, batch["inputs"], taps),
        matrix_specs={"kernel": CONV},
        taps={"kernel": "input"},
    )
    params, _ = model.init(KEY, None)
    x = jax.random.normal(KEY, (2, 9, 9, 2))
    y, _, taps = model.apply(
        params, {}, {"inputs": x}, key=None, train=False, taps=("input",)
    )
    (kernel,) = matrices(params["kernel"], CONV)
    rows = taps["input"]
    assert rows.shape[:3] == y.shape[:3]
    np.testing.assert_allclose(rows @ kernel[0], y, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(rows, patches(x, size, stride))


SMALL = {"image_size": 4, "channels": 2, "depths": (1,), "width": 4, "num_classes": 3}


@pytest.fixture(scope="module")
def net():
    model = resnet(SMALL)
    inputs = 3 + 2 * jax.random.normal(KEY, (8, 4, 4, 2))
    batch = {
        "inputs": inputs,
        "targets": jnp.arange(8) % 3,
        "mask": jnp.ones(8),
        "domain": jnp.zeros(8, jnp.int32),
    }
    return model, batch, *model.init(KEY, batch)


def stem(params, inputs):
    """The first convolution, the input of the first norm, in float64."""
    layer = patches(inputs, 3).reshape(-1, 18)
    kernel = np.asarray(params["stem"]["conv"]["kernel"], np.float64).reshape(18, 4)
    return np.asarray(layer, np.float64) @ kernel


def test_running_statistics_follow_the_batch(net):
    model, batch, params, state = net
    _, after, _ = model.apply(params, state, batch, key=None, train=True)
    values = stem(params, batch["inputs"])
    found = after["stem"]["norm"]
    np.testing.assert_allclose(found["mean"], 0.1 * values.mean(0), rtol=1e-4)
    np.testing.assert_allclose(found["var"], 0.9 + 0.1 * values.var(0), rtol=1e-4)
    _, kept, _ = model.apply(params, after, batch, key=None, train=False)
    np.testing.assert_array_equal(kept["stem"]["norm"]["var"], found["var"])


def test_a_perturbed_pass_leaves_the_clean_statistics(net):
    """`grad_fn` norms by its own batch statistics and hands out no state."""
    model, batch, params, state = net
    objective = classification(model)

    @jax.jit
    def passes(params, far):
        clean, _ = value_and_grad(objective).apply({}, params, state, batch, KEY)
        direct = jax.grad(lambda p: objective(p, state, batch, KEY)[0])(far)
        return clean.aux.model_state, clean.grad_fn(far), direct

    params = jax.tree.map(lambda p: p + 0.1, params)
    far = jax.tree.map(lambda p: 1.5 * p, params)
    found, elsewhere, direct = passes(params, far)
    values = stem(params, batch["inputs"])
    np.testing.assert_allclose(
        found["stem"]["norm"]["mean"], 0.1 * values.mean(0), rtol=1e-4
    )
    kernel = direct["head"]["kernel"]
    np.testing.assert_allclose(elsewhere["head"]["kernel"], kernel, rtol=1e-5)
    assert abs(kernel).max() > 1e-3


@pytest.mark.slow
def test_each_microbatch_moves_the_statistics(net):
    model, batch, params, state = net
    oracle = value_and_grad(classification(model), accumulation=2)
    found, _ = oracle.apply({}, params, state, batch, KEY)
    expected = 0.0
    for k in (0, 1):
        values = stem(params, batch["inputs"][k::2])
        expected = 0.9 * expected + 0.1 * values.mean(0)
    mean = found.aux.model_state["stem"]["norm"]["mean"]
    np.testing.assert_allclose(mean, expected, rtol=1e-4)


def test_an_image_is_flattened_for_the_perceptron():
    model = mlp({"input_dim": 18, "hidden_dim": 4, "num_layers": 1})
    x = jax.random.normal(KEY, (2, 3, 3, 2))
    params, _ = model.init(KEY, None)
    outputs = [
        model.apply(params, {}, {"inputs": i}, key=None, train=False)[0]
        for i in (x, x.reshape(2, 18))
    ]
    np.testing.assert_array_equal(*outputs)


def test_gelus_of_vision_transformers():
    x = np.linspace(-6, 6, 25, dtype=np.float32)
    normal = (1 + np.vectorize(math.erf)(x.astype(float) / math.sqrt(2))) / 2
    tanh, exact = (np.asarray(ACTIVATIONS[k](x)) for k in ("gelu", "exact_gelu"))
    np.testing.assert_allclose(exact, x * normal, atol=2e-6)
    assert 1e-4 < np.abs(tanh - x * normal).max() < 1e-3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"name": "cnn", "width": 12},
            r"model\.groups: expected a divisor of width 12",
        ),
        ({"name": "cnn", "channels": 0}, r"model\.channels: expected a whole number"),
        ({"name": "resnet", "depths": (2, 0)}, r"model\.depths: .* found \(2, 0\)"),
        ({"name": "resnet", "stem": "cifer"}, r"model\.stem: expected one of cifar"),
        ({"name": "resnet", "momentum": 1.0}, r"model\.momentum: expected a rate"),
        ({"name": "vgg", "image_size": 28}, r"model\.image_size: expected a multiple"),
        ({"name": "vgg", "depth": 12}, r"model\.depth: expected one of 11, 13, 16, 19"),
        ({"name": "vit", "patch_size": 5}, r"model\.patch_size: expected a divisor"),
        ({"name": "vit", "num_heads": 5}, r"model\.num_heads: expected a divisor"),
        ({"name": "vit", "activation": "gleu"}, r"model\.activation: .* quick_gelu"),
        ({"name": "vit", "pre_norm": 1}, r"model\.pre_norm: expected True or False"),
        ({"name": "vit", "widht": 5}, r"unknown key model\.widht"),
    ],
)
def test_settings_that_cannot_work(settings, message):
    with pytest.raises(ConfigError, match=message):
        build(settings)


def test_images_of_another_shape_are_refused():
    model = cnn({"image_size": 8, "width": 8})
    params, state = model.init(KEY, None)
    batch = {"inputs": jnp.ones((2, 64))}
    with pytest.raises(ConfigError, match=r"cnn is for images \(8, 8, 1\).*\(2, 64\)"):
        model.apply(params, state, batch, key=None, train=False)
