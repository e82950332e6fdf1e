"""A multilayer perceptron, for classification."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jopt.matrix import MatrixSpec
from jopt.models._model import Batch, Model
from jopt.models._nnx import nnx_model
from jopt.models._settings import (
    DTYPES,
    raise_faults,
    read_settings,
    value_fault,
    whole_faults,
)
from jopt.models._taps import Taps

# B batch; I input width; F hidden width; C classes.

_ACTIVATIONS: dict[str, Any] = {
    "relu": jax.nn.relu,
    "gelu": jax.nn.gelu,
    "tanh": jnp.tanh,
}


@dataclasses.dataclass(frozen=True)
class MlpConfig:
    """Settings of `mlp`. A value that cannot work raises `ConfigError`.

    Attributes:
        name: the entry of `jopt.models.build`.
        input_dim: I, numbers of an input; an image is flattened.
        num_classes: C, logits of an output.
        num_layers: hidden layers.
        hidden_dim: F, width of each hidden layer.
        activation: relu, gelu (its tanh form) or tanh, after each hidden layer.
        compute_dtype: of activations and matmuls; parameters are always float32.
    """

    name: str = "mlp"
    input_dim: int = 64
    num_classes: int = 10
    num_layers: int = 2
    hidden_dim: int = 64
    activation: str = "relu"
    compute_dtype: str = "float32"

    def __post_init__(self) -> None:
        raise_faults(_faults(self))


def _faults(config: MlpConfig) -> Iterator[str]:
    whole = ("input_dim", "num_classes", "num_layers", "hidden_dim")
    yield from whole_faults(config, *whole)
    choices = (("activation", _ACTIVATIONS), ("compute_dtype", DTYPES))
    for key, known in choices:
        if getattr(config, key) not in known:
            yield value_fault(config, key, f"one of {', '.join(known)}")


class Mlp(nnx.Module):
    """Inputs of I numbers, of any shape, to logits (B, C) in the compute dtype."""

    def __init__(self, config: MlpConfig, rngs: nnx.Rngs) -> None:
        widths = [config.input_dim, *[config.hidden_dim] * config.num_layers]
        options: dict[str, Any] = {"dtype": DTYPES[config.compute_dtype], "rngs": rngs}
        normal = nnx.initializers.he_normal()
        self.layers = nnx.List(
            [
                nnx.Linear(fan_in, fan_out, kernel_init=normal, **options)
                for fan_in, fan_out in itertools.pairwise(widths)
            ]
        )
        self.head = nnx.Linear(
            widths[-1],
            config.num_classes,
            kernel_init=nnx.initializers.zeros,
            **options,
        )
        self.activation = _ACTIVATIONS[config.activation]

    def __call__(self, x: jax.Array, taps: Taps) -> jax.Array:
        x_BF = x.reshape(len(x), -1)
        for number, layer in enumerate(self.layers):
            taps.record(f"layers/{number}/input", x_BF)
            x_BF = self.activation(layer(x_BF))
        taps.record("head/input", x_BF)
        return self.head(x_BF)


def mlp(config: Any) -> Model:
    """The perceptron that `config` describes; see `MlpConfig`.

    Hidden kernels start with He's normal initialization, the head at zero, so a new
    model gives every class equal probability. Weights and taps:

        layers/i/kernel (I or F, F), layers/i/bias (F,)     layers/i/input (B, I or F)
        head/kernel (F, C), head/bias (C,)                  head/input (B, F)

    Model flops of an example, forward and backward: 6 for each entry of a kernel.

    >>> model = mlp({"hidden_dim": 8})
    >>> batch = {"inputs": jnp.zeros((3, 64))}
    >>> params, state = model.init(jax.random.key(0), batch)
    >>> outputs, _, taps = model.apply(
    ...     params, state, batch, key=None, train=False, taps=("head/input",)
    ... )
    >>> outputs.shape, taps["head/input"].shape
    ((3, 10), (3, 8))
    """
    settings = read_settings(MlpConfig, config)
    names = [*(f"layers/{i}" for i in range(settings.num_layers)), "head"]

    def call(module: Mlp, batch: Batch, taps: Taps) -> jax.Array:
        return module(batch["inputs"], taps)

    return nnx_model(
        lambda rngs: Mlp(settings, rngs),
        call=call,
        matrix_specs={f"{name}/kernel": MatrixSpec((0,), (1,)) for name in names},
        taps={f"{name}/kernel": f"{name}/input" for name in names},
    )
