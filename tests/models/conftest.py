"""One small model of each kind, with a batch, for the contract every model obeys."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import linen, nnx

from jopt.matrix import MatrixSpec
from jopt.models import (
    Model,
    cnn,
    gpt_neo,
    linen_model,
    mlp,
    nnx_model,
    resnet,
    text_encoder,
    transformer_lm,
    vgg,
    vit,
)

DENSE = MatrixSpec((0,), (1,))


@dataclasses.dataclass(eq=False)
class Sample:
    """A model, a batch of 2 examples and what is special about the model."""

    model: Model
    batch: dict[str, Any]
    has_state: bool = False
    has_dropout: bool = False
    layers: int = 1  # stacked in `blocks/`
    tolerance: float = 1e-5

    @functools.cached_property
    def start(self) -> tuple[Any, Any]:
        """Parameters and state of a new model; eager, as most shapes come again."""
        return self.model.init(jax.random.key(0), self.batch)


@functools.cache
def lm_sample(make: Any = transformer_lm, **settings: Any) -> Sample:
    small = {"vocab_size": 11, "num_layers": 1, "embed_dim": 24, "num_heads": 2}
    ids = jax.random.randint(jax.random.key(7), (2, 6), 0, 11)
    batch = {
        "inputs": ids,
        "targets": (ids + 1) % 11,
        "mask": jnp.ones((2, 6)),
        "domain": jnp.arange(2),
    }
    low = settings.get("compute_dtype") == "bfloat16"
    return Sample(
        make({**small, **settings}),
        batch,
        has_dropout=bool(settings.get("dropout")),
        layers=settings["num_layers"] if settings.get("scan") else 1,
        tolerance=0.1 if low else 1e-5,
    )


class Mlp(nnx.Module):
    """Twelve layers in a list, so that keys "10" and 10 sort differently."""

    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(8, 8, rngs=rngs) for _ in range(12)])
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x, taps):
        for number, layer in enumerate(self.layers):
            taps.scope(f"layers/{number}").record("input", x)
            x = layer(x)
        return self.dropout(self.norm(x))


def nnx_sample() -> Sample:
    kernels = [f"layers/{i}/kernel" for i in range(12)]
    model = nnx_model(
        Mlp,
        call=lambda module, batch, taps: module(batch["inputs"], taps),
        matrix_specs=dict.fromkeys(kernels, DENSE),
        taps={path: path.replace("kernel", "input") for path in kernels},
    )
    inputs = jax.random.normal(jax.random.key(7), (2, 8))
    return Sample(model, {"inputs": inputs}, has_state=True, has_dropout=True)


class LinenMlp(linen.Module):
    @linen.compact
    def __call__(self, x, train):
        self.sow("intermediates", "input", x)
        x = linen.relu(linen.Dense(8, name="up")(x))
        x = linen.BatchNorm(use_running_average=not train, name="norm")(x)
        x = linen.Dropout(0.5, deterministic=not train)(x)
        self.sow("intermediates", "hidden", x)
        return linen.Dense(3, name="down")(x)


def linen_sample() -> Sample:
    batch = {"inputs": jax.random.normal(jax.random.key(7), (2, 8))}
    model = linen_model(
        LinenMlp(),
        batch,
        matrix_specs={"up/kernel": DENSE, "down/kernel": DENSE},
        taps={"up/kernel": "input", "down/kernel": "hidden"},
    )
    return Sample(model, batch, has_state=True, has_dropout=True)


def mlp_sample() -> Sample:
    inputs = jax.random.normal(jax.random.key(7), (2, 6))
    model = mlp({"input_dim": 6, "hidden_dim": 8, "num_classes": 3})
    return Sample(model, {"inputs": inputs})


def image_sample(build: Any, size: int = 8, **settings: Any) -> Sample:
    model = build({"image_size": size, "channels": 2, "num_classes": 3, **settings})
    inputs = jax.random.normal(jax.random.key(7), (2, size, size, 2))
    return Sample(
        model,
        {"inputs": inputs},
        has_state=build in (resnet, vgg) and settings.get("batch_norm", True),
        has_dropout=bool(settings.get("dropout")),
        # Eleven shaken layers in a row make large values, and rounding with them: in
        # float32 the two derivatives differ by 5e-5 of their size on JAX 0.10.
        tolerance=5e-4 if build is vgg else 5e-5,
    )


def encoder_sample(**settings: Any) -> Sample:
    small = {"vocab_size": 11, "num_layers": 1, "embed_dim": 12, "num_heads": 2}
    model = text_encoder({**small, "context": 6, "num_classes": 3, **settings})
    inputs = jnp.array([[3, 1, 10, 4, 0, 0], [5, 0, 0, 0, 0, 0]])
    return Sample(model, {"inputs": inputs}, has_dropout=bool(settings.get("dropout")))


SAMPLES = {
    "mlp": mlp_sample,
    "cnn": lambda: image_sample(cnn, 4, width=4, groups=2),
    "resnet": lambda: image_sample(resnet, 4, depths=(1, 1), width=4),
    "resnet_bottleneck": lambda: image_sample(
        resnet, 16, depths=(1, 1), width=2, block="bottleneck", stem="imagenet"
    ),
    "vgg": lambda: image_sample(
        vgg, 32, depth=11, width=2, hidden_head=(6,), dropout=0.5
    ),
    "vgg_plain": lambda: image_sample(vgg, 32, depth=11, width=4, batch_norm=False),
    "vit": lambda: image_sample(
        vit, patch_size=4, num_layers=1, embed_dim=12, num_heads=2, dropout=0.5
    ),
    "vit_mean": lambda: image_sample(
        vit, patch_size=4, num_layers=2, embed_dim=12, num_heads=2, pool="mean"
    ),
    "transformer": lambda: lm_sample(dropout=0.5),
    "transformer_swiglu_tied": lambda: lm_sample(mlp="swiglu", tied_head=True),
    "transformer_grouped_fused": lambda: lm_sample(fused_qkv=True, num_kv_heads=1),
    "transformer_scanned": lambda: lm_sample(scan=True, num_layers=3, dropout=0.5),
    "transformer_scanned_grouped": lambda: lm_sample(
        scan=True, num_layers=2, num_kv_heads=1, mlp="swiglu", tied_head=True
    ),
    "transformer_bfloat16": lambda: lm_sample(compute_dtype="bfloat16", mlp="gelu"),
    # Six positions of six, and the second block sees two of them at a time.
    "gpt_neo": lambda: lm_sample(gpt_neo, num_layers=2, context=6, window=2),
    "text_encoder": lambda: encoder_sample(dropout=0.5),
    "text_encoder_mean": lambda: encoder_sample(pool="mean"),
    "nnx_batch_norm": nnx_sample,
    "linen_batch_norm": linen_sample,
}


# What is special about them is in others, too, or in test_images.py.
SLOW = {
    "cnn",
    "resnet",
    "vit",
    "resnet_bottleneck",
    "vgg",
    "vgg_plain",
    "vit_mean",
    "transformer_swiglu_tied",
    "transformer_grouped_fused",
    "transformer_scanned_grouped",
    "transformer_bfloat16",
    "gpt_neo",
    "text_encoder",
    "text_encoder_mean",
}


@pytest.fixture(
    scope="session",
    params=[
        pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW))
        for name in SAMPLES
    ],
)
def sample(request) -> Sample:
    return SAMPLES[request.param]()


@pytest.fixture
def lm():
    """`lm(**settings)`: a small transformer with its batch."""
    return lm_sample


def shake(params: Any, scale: float = 0.3) -> Any:
    """Adds noise to every parameter, so that none of them stays at its zero start."""
    leaves, treedef = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(99), len(leaves))
    noise = (
        x + scale * jax.random.normal(k, x.shape)
        for x, k in zip(leaves, keys, strict=True)
    )
    return jax.tree.unflatten(treedef, noise)


@pytest.fixture(name="shake", scope="session")
def _shake():
    return shake
