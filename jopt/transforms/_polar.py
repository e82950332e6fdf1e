"""The polar factors of all matrices of a tree."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, get_args

import jax
import jax.numpy as jnp

from jopt.errors import check_choice
from jopt.linalg import (
    Coefficients,
    Engine,
    MethodName,
    Normalization,
    is_auto,
    orthogonalize,
    travelling_dtype,
)
from jopt.linalg._stacks import map_matrices
from jopt.transforms._momentum import Momentum
from jopt.transforms._nonfinite import NanPolicy, without_nonfinite
from jopt.transforms._on_mesh import Distribute, MeshMap, map_on_mesh
from jopt.transforms._specs import MatrixSpecs
from jopt.transforms._views import Views
from jopt.tree import PyTree


@dataclasses.dataclass(frozen=True)
class PolarMap:
    """A map of trees: each matrix to (nearly) its polar factor, through the dispatch.

    Attributes:
        views: what the matrices are, and where they lie.
        work: what is done to a stack of wide matrices, and where.
    """

    views: Views
    work: MeshMap

    def __call__(self, tree: PyTree) -> PyTree:
        """The polar factor of each matrix, in the dtype of its leaf."""
        specs = self.views.specs(tree)
        if self.views.layout is None:
            return map_matrices(self.work.fn, tree, specs)
        return map_on_mesh(self.work, tree, specs, self.views.layout)


def polar_map(
    around: Callable[[Engine], Engine] | None = None,
    *,
    steps: int | None = None,
    method: MethodName | Engine = "auto",
    coeffs: Coefficients = "auto",
    normalization: Normalization = "auto",
    compute_dtype: jax.typing.DTypeLike | None = None,
    precision: jax.lax.PrecisionLike = None,
    matrix_specs: MatrixSpecs = None,
    shardings: PyTree | None = None,
    distribute: Distribute = "stack",
) -> PolarMap:
    """How polar factors are computed, from the arguments of an optimizer.

    The arguments are those of `scale_by_orthogonalization`, and

    Args:
        around: makes another map of wide stacks (S, M, N), M <= N, out of the engine,
            such as one that calls it twice. It then has no `distribute="gram"`.

    Fails: `ConfigError` for an unknown choice.

    >>> polar = polar_map(method="svd")
    >>> polar({"w": jnp.array([[3.0, 0.0], [0.0, -1.0]])})["w"].round(5).tolist()
    [[1.0, 0.0], [0.0, -1.0]]
    """
    engine = partial(
        orthogonalize,
        steps=steps,
        method=method,
        coeffs=coeffs,
        normalization=normalization,
        compute_dtype=compute_dtype,
        precision=precision,
    )
    # An unknown choice fails now and not in the first step. The default dtype depends
    # on the device, which nobody asks for before there is a step.
    unset = compute_dtype is None or is_auto(compute_dtype)
    jax.eval_shape(
        partial(engine, compute_dtype=jnp.float32 if unset else compute_dtype),
        jax.ShapeDtypeStruct((1, 1, 1), jnp.float32),
    )
    on_grams = not callable(method) and method in ("auto", "gram") and around is None
    work = MeshMap(
        engine if around is None else around(engine),
        distribute,
        spread=(lambda x_SMN, names: engine(x_SMN, axis_name=names))
        if on_grams
        else None,
        travelling=partial(
            travelling_dtype,
            method=method,
            coeffs=coeffs,
            steps=steps,
            compute_dtype=compute_dtype,
        ),
    )
    return PolarMap(Views.read(matrix_specs, shardings), work)


def guarded(rule: Momentum, views: Views, nan_policy: NanPolicy) -> Momentum:
    """`checked(rule, views)`, that leaves out broken matrices if the policy is `zero`.

    Fails: `ConfigError` for an unknown policy.

    >>> from jopt.transforms import ema
    >>> rule = guarded(ema(0.9), Views(), "zero")
    >>> broken = {"w": jnp.array([[jnp.nan, 1.0]])}
    >>> rule.update(broken, rule.init(broken))[0]["w"].tolist()
    [[0.0, 0.0]]
    """
    check_choice("nan_policy", nan_policy, get_args(NanPolicy))
    if nan_policy == "zero":
        rule = without_nonfinite(rule, views)
    return checked(rule, views)


def checked(rule: Momentum, views: Views) -> Momentum:
    """`rule`, whose `init` fails for parameters that cannot be seen as matrices.

    >>> from jopt.transforms import ema
    >>> rule = checked(ema(0.9), Views())
    >>> rule.init({"w": jnp.ones((2, 2))}).mu["w"].shape
    (2, 2)
    >>> rule.init({"bias": jnp.ones(2)})  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    jopt.errors.ShapeError: these parameters cannot be seen as matrices:...
    """

    def init(params: PyTree) -> Any:
        views.specs(params)
        return rule.init(params)

    return Momentum(init, rule.update)
