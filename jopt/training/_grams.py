"""Activation Grams of a step: from the taps of a model to a matrix for each weight."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from jopt.linalg import bfloat16_result, default_compute_dtype
from jopt.models import Model, activation_gram
from jopt.optimizers import Optimizer
from jopt.tree import named_leaves

# L stacked layers; M fan-in; N tokens of a batch.

PyTree = Any


class Source(NamedTuple):
    """What a Gram is made of: several weights that read one tap share it.

    Attributes:
        tap: name of the activation.
        layers: shape of the stacked axes that lead in the tap and in the weight, ().
        fan_in: of each weight that reads it.
    """

    tap: str
    layers: tuple[int, ...]
    fan_in: int


@dataclasses.dataclass(frozen=True)
class Grams:
    """Which Grams a step computes, and for which weights.

        C_A = A^T A / N,   A (N, M) the N positions of a batch as the weight reads them

    float32, shape (M, M), behind the stacked axes (L, M, M) of a scanned model.
    Products keep the dtype of the activations and are summed in float32. Positions
    count whether masked or not, so the Gram of a window is the plain mean over
    microbatches.

    Cost of each tap, whatever the number of weights that read it: 2 N M^2
    floating-point operations and one read of N M activations, L times for stacked
    layers; a sum of 4 M^2 bytes is kept, once more for the microbatch in flight.
    Nothing else of a microbatch outlives it. On a data mesh the (M, M) sums of the
    devices are added up, 4 M^2 bytes over the network for each microbatch.

    Attributes:
        weights: path -> what its Gram is made of.
        stride: of the positions that count, as in `jopt.models.activation_gram`.
    """

    weights: Mapping[str, Source]
    stride: int = 1

    @property
    def sources(self) -> tuple[Source, ...]:
        """What is computed, each once."""
        return tuple(dict.fromkeys(self.weights.values()))

    @property
    def taps(self) -> tuple[str, ...]:
        """The taps to ask the model for, each once."""
        return tuple(dict.fromkeys(source.tap for source in self.sources))

    def __call__(
        self, taps: Mapping[str, jax.Array], due: jax.typing.ArrayLike
    ) -> dict[Source, jax.Array]:
        """The Grams of one microbatch, no part of the derivative.

        Where `due` is false nothing is computed, and the Grams are NaN, which nobody
        can take for a measurement.
        """
        return {
            source: self._gram(source, taps[source.tap], due) for source in self.sources
        }

    def zeros(self) -> dict[Source, jax.Array]:
        """Where a sum of Grams begins."""
        return {source: _filled(source, 0.0) for source in self.sources}

    def by_weight(self, grams: Mapping[Source, jax.Array]) -> dict[str, jax.Array]:
        """path -> Gram; weights that read one tap get the same array."""
        return {path: grams[source] for path, source in self.weights.items()}

    def flops(self, positions: int) -> int:
        """Of all Grams of a window with so many positions (tokens, or examples)."""
        each = (math.prod(s.layers) * s.fan_in**2 for s in self.sources)
        return 2 * -(-positions // self.stride) * sum(each)

    def _gram(
        self, source: Source, tap: jax.Array, due: jax.typing.ArrayLike
    ) -> jax.Array:
        tap = jax.lax.stop_gradient(tap)

        def measured(tap: jax.Array) -> jax.Array:
            return activation_gram(
                tap,
                source.fan_in,
                stacked_axes=len(source.layers),
                stride=self.stride,
                result_dtype=gram_result_dtype(),
            )

        if due is True:
            return measured(tap)
        # A branch for each: one for all would keep each activation until the last is
        # there.
        return jax.lax.cond(due, measured, lambda _: _filled(source, jnp.nan), tap)


NO_GRAMS = Grams({})


def gram_result_dtype() -> jnp.dtype:
    """Of the products of a bfloat16 tap: float32 but where that was measured to cost.

    It costs on CPUs with instructions for bfloat16, half of the speed. The sums over
    microbatches are float32 everywhere.
    """
    slow = default_compute_dtype(jnp.float32) == jnp.bfloat16
    return bfloat16_result() if slow else jnp.dtype(jnp.float32)


def _filled(source: Source, value: float) -> jax.Array:
    shape = (*source.layers, source.fan_in, source.fan_in)
    return jnp.full(shape, value, jnp.float32)


def choose_grams(
    model: Model,
    example: Mapping[str, Any],
    paths: Iterable[str],
    *,
    token_grams: bool = False,
    stride: int = 1,
) -> Grams:
    """The Grams of those of `paths` that have a matrix view and a tap.

    Args:
        model: declares views and taps.
        example: a batch of one row, for shapes; nothing is computed.
        paths: of weights.
        token_grams: also those of taps of token ids, whose Gram is the diagonal of the
            token frequencies as a (vocabulary, vocabulary) matrix.
        stride: of the positions that count.
    """
    wanted = {
        path: model.taps[path]
        for path in paths
        if path in model.taps and model.matrix_specs[path] is not None
    }
    if not wanted:
        return NO_GRAMS
    names = tuple(dict.fromkeys(wanted.values()))

    def shapes() -> tuple[PyTree, dict[str, jax.Array]]:
        params, state = model.init(jax.random.key(0), example)
        applied = model.apply(params, state, example, key=None, train=False, taps=names)
        return params, applied[2]

    params, taps = jax.eval_shape(shapes)
    leaves = named_leaves(params)
    weights = {}
    for path, tap in wanted.items():
        if jnp.issubdtype(taps[tap].dtype, jnp.integer) and not token_grams:
            continue
        spec, shape = model.matrix_specs[path], leaves[path].shape
        assert spec is not None
        batch, _, _ = spec.axes(len(shape))
        layers = tuple(shape[axis] for axis in batch)
        weights[path] = Source(tap, layers, spec.dims(shape)[1])
    return Grams(weights, stride)


def with_grams(
    objective: Callable[..., tuple[jax.Array, Any]],
    grams: Grams,
    due: jax.typing.ArrayLike,
) -> Callable[..., tuple[jax.Array, tuple[Any, dict[Source, jax.Array]]]]:
    """The objective that hands out Grams in place of the taps they are made of.

    Inside the scan over microbatches, so that no activation leaves it.
    """
    own = frozenset(grams.taps)

    def objective_with_grams(*args: Any) -> Any:
        value, aux = objective(*args)
        others = {name: tap for name, tap in aux.taps.items() if name not in own}
        return value, (aux._replace(taps=others), grams(aux.taps, due))

    return objective_with_grams


def grams_of(
    optimizer: Optimizer, config: ConfigDict, model: Model, batch: Any
) -> Grams | None:
    """Those that the rules need which ask for them; None where no rule does."""
    if "activation_grams" not in optimizer.needs:
        return None
    paths = [row.path for row in optimizer.table if "activation_grams" in row.needs]
    return choose_grams(
        model,
        batch,
        paths,
        token_grams=config.oracle.token_grams,
        stride=config.oracle.gram_stride,
    )
