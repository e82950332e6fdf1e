"""From an optimizer of matrices to one of a whole model."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast

import jax
import optax

from jopt.errors import ConfigError
from jopt.optimizers._chain import keep_dtype
from jopt.optimizers._labels import FALLBACK, SPECTRAL, describe_labels, label_params
from jopt.optimizers._options import with_parameters
from jopt.transforms import MatrixSpecs
from jopt.tree import PyTree

Labels = PyTree | Callable[[PyTree], PyTree] | None


class Routed(Protocol):
    """An optimizer of a whole model.

    Attributes:
        matrices: the constructor of its chain alone, for parameters that are all
            matrices, as rules use it.
    """

    matrices: Callable[..., optax.GradientTransformationExtraArgs]

    def __call__(
        self, learning_rate: optax.ScalarOrSchedule = ..., *args: Any, **options: Any
    ) -> optax.GradientTransformationExtraArgs: ...


def adamw_beside(
    learning_rate: optax.ScalarOrSchedule, options: Mapping[str, Any]
) -> optax.GradientTransformation:
    """`optax.adamw(learning_rate, b1=0.9, b2=0.95)`, decay and mask from `options`.

    >>> tx = adamw_beside(0.1, {"weight_decay": 0.2, "nesterov": True})
    """
    decay = {k: options[k] for k in ("weight_decay", "mask") if k in options}
    plain = {"weight_decay": 0.0} | decay
    return optax.adamw(learning_rate, b1=0.9, b2=0.95, **plain)


def routed(
    matrices: Callable[..., optax.GradientTransformationExtraArgs],
    beside: Callable[..., optax.GradientTransformation] = adamw_beside,
) -> Routed:
    """The constructor of a chain for matrices, made one for all parameters of a model.

    It takes two more arguments, `fallback` and `labels` (see `jopt.muon`), and gives
    parameters that are no hidden matrices to the fallback; `.matrices` is the
    constructor as it was. The default fallback is `beside(learning_rate, options)`,
    which gets the options of the matrices that were set.

    >>> import jax.numpy as jnp
    >>> @routed
    ... def plain(learning_rate, *, matrix_specs=None):
    ...     return optax.with_extra_args_support(optax.sgd(learning_rate))
    >>> ones = {"mlp": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    >>> tx = plain(1.0, fallback=optax.sgd(0.0))
    >>> updates, _ = tx.update(ones, tx.init(ones))
    >>> updates["mlp"].tolist(), updates["bias"].tolist()
    ([[-1.0, -1.0], [-1.0, -1.0]], [-0.0, -0.0])
    """
    default = inspect.signature(matrices).parameters["learning_rate"].default

    def constructor(
        # Without a default the signature asks for it.
        learning_rate: optax.ScalarOrSchedule = default,
        *args: Any,
        fallback: optax.GradientTransformation | None = None,
        labels: Labels = None,
        **options: Any,
    ) -> optax.GradientTransformationExtraArgs:
        if fallback is None:
            fallback = beside(learning_rate, options)
        spectral = matrices(learning_rate, *args, **options)
        specs = options.get("matrix_specs")
        return spectral_and_fallback(spectral, fallback, labels, specs)

    constructor.__doc__ = matrices.__doc__
    constructor.__name__ = constructor.__qualname__ = matrices.__name__
    constructor.__module__ = matrices.__module__
    extra = inspect.signature(constructor).parameters
    whole = with_parameters(
        constructor,
        [
            *inspect.signature(matrices).parameters.values(),
            extra["fallback"],
            extra["labels"],
        ],
    )
    result = cast(Any, whole)
    result.matrices = matrices
    return cast(Routed, result)


def spectral_and_fallback(
    spectral: optax.GradientTransformation,
    fallback: optax.GradientTransformation,
    labels: Labels = None,
    matrix_specs: MatrixSpecs = None,
) -> optax.GradientTransformationExtraArgs:
    """Gives each parameter to one of two optimizers by its label; see `muon`.

    Extra args that are trees like the parameters are split in the same way.

    >>> import jax.numpy as jnp
    >>> tx = spectral_and_fallback(optax.sgd(1.0), optax.sgd(0.0))
    >>> ones = {"mlp": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    >>> updates, _ = tx.update(ones, tx.init(ones))
    >>> updates["mlp"].tolist(), updates["bias"].tolist()
    ([[-1.0, -1.0], [-1.0, -1.0]], [-0.0, -0.0])
    """

    def labelled(params: PyTree) -> PyTree:
        if labels is None:
            result = label_params(params, matrix_specs)
        else:
            result = labels(params) if callable(labels) else labels
        found = set(jax.tree.leaves(result))
        if not found <= {SPECTRAL, FALLBACK}:
            raise ConfigError(
                f"labels are {SPECTRAL!r} or {FALLBACK!r}, not "
                f"{sorted(map(str, found - {SPECTRAL, FALLBACK}))}"
            )
        if found == {FALLBACK}:
            raise ConfigError(
                "no parameter is labelled 'spectral'; by name they would be:\n"
                + describe_labels(params, matrix_specs)
                + "\nchange the labels, or use the fallback alone"
            )
        return result

    return keep_dtype(
        optax.partition(
            {SPECTRAL: spectral, FALLBACK: fallback},
            labelled,
            mask_compatible_extra_args=True,
        )
    )
