"""Where to climb: the steepest way up in a norm ball, by a given radius.

A rule knows nothing of losses: it maps a direction, most often a gradient, to the
perturbation epsilon that maximises <direction, epsilon> over a ball. Norms are those of
the whole tree, in float32 or wider, and no square over- or underflows on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax

from jopt.errors import ConfigError
from jopt.linalg import widened
from jopt.tree import PyTree, map_named, named_leaves, unit_scaled

# Leaves by path: those that take part, in float32 or wider.
Leaves: TypeAlias = Mapping[str, jax.Array]
# What is climbed over: True where a leaf takes part. A tree or the beginning of one, or
# a function of the parameters that gives it; None is all of them.
Mask: TypeAlias = PyTree | Callable[[PyTree], PyTree] | None


class AscentRule(NamedTuple):
    """A norm ball and its radius.

    Attributes:
        init: `init(params) -> state`, `()` for most rules.
        ascend: `ascend(direction, state, params, rho) -> (epsilon, state)`, with a
            radius that may be traced. Epsilon is shaped like `direction`, in float32 or
            wider; leaves that are None stay None, and those that do not take part
            (masked, not floating) are zeros.
        rho: the radius, or a schedule of the number of the step; see `radius`.
    """

    init: Callable[[PyTree], PyTree]
    ascend: Callable[..., tuple[PyTree, PyTree]]
    rho: optax.ScalarOrSchedule

    def radius(self, count: jax.typing.ArrayLike) -> jax.Array:
        """The radius at a step, a scalar in float32 or wider.

        >>> float(l2_ascent(optax.linear_schedule(0.0, 1.0, 10)).radius(5))
        0.5
        """
        rho = self.rho(count) if callable(self.rho) else self.rho
        return widened(jnp.asarray(rho))


# (direction, all parameters, state, rho) -> (epsilon, state).
Ascend: TypeAlias = Callable[[Leaves, PyTree, PyTree, jax.Array], tuple[Leaves, PyTree]]


def ascent_rule(
    ascend: Ascend,
    rho: optax.ScalarOrSchedule,
    *,
    mask: Mask = None,
    init: Callable[[PyTree], PyTree] = lambda params: (),
) -> AscentRule:
    """A rule from a function of leaves by path, those that take part.

    Args:
        ascend: `(direction, params, state, rho) -> (epsilon, state)`, where direction
            and epsilon are dicts of leaves in float32 or wider.
        rho: radius: a number, traced or not, or a schedule.
        mask: leaves out frozen parameters; a tree of bools like the parameters or like
            the beginning of it, or a function that makes one of them. Static.
        init: makes the rule's state from the parameters.

    Fails: `ConfigError` for a negative radius.

    >>> rule = ascent_rule(lambda d, params, state, rho: (d, state), 1.0)
    >>> rule.ascend({"a": jnp.ones(1)}, (), {"a": jnp.ones(1)}, 0.1)[0]["a"].tolist()
    [1.0]
    """
    check_radius("rho", rho)

    def full(
        direction: PyTree, state: PyTree, params: PyTree, rho: jax.typing.ArrayLike
    ) -> tuple[PyTree, PyTree]:
        weights = taking_part(params, mask)
        climbed = {
            path: widened(jnp.asarray(leaf))
            for path, leaf in named_leaves(direction).items()
            if path in weights
        }
        epsilon, state = ascend(climbed, params, state, jnp.asarray(rho))

        def in_place(path: str, leaf: Any) -> jax.Array:
            if path in epsilon:
                return epsilon[path]
            return jnp.zeros(jnp.shape(leaf), jnp.float32)

        return map_named(in_place, direction), state

    return AscentRule(init, full, rho)


def check_radius(name: str, rho: Any) -> None:
    """Fails with `ConfigError` for a radius that is known to be negative.

    >>> check_radius("rho", -1.0)
    Traceback (most recent call last):
        ...
    jopt.errors.ConfigError: rho is -1.0; a radius is 0 or more
    """
    if isinstance(rho, int | float) and rho < 0:
        raise ConfigError(f"{name} is {rho}; a radius is 0 or more")


def taking_part(params: PyTree, mask: Mask = None) -> dict[str, Any]:
    """The floating leaves that a mask keeps, by path.

    >>> params = {"a": jnp.ones(2), "b": jnp.ones(2), "n": jnp.ones(2, jnp.int32)}
    >>> sorted(taking_part(params, {"a": True, "b": False, "n": True}))
    ['a']
    """
    kept = mask(params) if callable(mask) else mask
    if kept is not None:
        kept = jax.tree.map(
            lambda keep, part: jax.tree.map(lambda _: bool(keep), part), kept, params
        )
        kept = named_leaves(kept)
    return {
        path: leaf
        for path, leaf in named_leaves(params).items()
        if jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.inexact)
        and (kept is None or kept[path])
    }


def l2_ascent(rho: optax.ScalarOrSchedule = 0.05, *, mask: Mask = None) -> AscentRule:
    """epsilon = rho d / ||d||, with the norm of the whole tree; 0 where d is 0.

    Args:
        rho: radius: a number, traced or not, or a schedule of the step.
        mask: leaves out frozen parameters, from the norm and from epsilon; a tree of
            bools or a function of the parameters, as in `optax.masked`. Static.

    State: none. Cost: two passes over d.

    References: Foret, Kleiner, Mobahi and Neyshabur 2021, SAM, arXiv 2010.01412.

    >>> rule = l2_ascent(0.1)
    >>> d = {"a": jnp.array([3e-30]), "b": jnp.array([4e-30])}
    >>> epsilon, _ = rule.ascend(d, rule.init(d), d, rule.radius(0))
    >>> [round(float(x[0]), 4) for x in epsilon.values()]
    [0.06, 0.08]
    """

    def ascend(
        d: Leaves, params: PyTree, state: PyTree, rho: jax.Array
    ) -> tuple[Leaves, PyTree]:
        del params
        return of_length(d, rho), state

    return ascent_rule(ascend, rho, mask=mask)


def asam_ascent(
    rho: optax.ScalarOrSchedule = 0.5,
    kappa: jax.typing.ArrayLike = 0.01,
    *,
    mask: Mask = None,
) -> AscentRule:
    """epsilon = rho T^2 d / ||T d||, T = diag(|w| + kappa), entry by entry.

    With kappa = 0 the relative perturbation epsilon / w does not change when one layer
    is scaled up and the next one down, where that leaves the function as it is.

    Args:
        rho: radius of ||T^-1 epsilon||; 0.5 (CIFAR-10) and 1.0 (CIFAR-100) in the
            paper.
        kappa: keeps weights of zero perturbable. May be traced.
        mask: as in `l2_ascent`.

    State: none. Three conventions are in circulation; this is the paper's (T = |w|),
    with its kappa, and not |w| d / ||d||.

    References: Kwon, Kim, Park and Choi 2021, ASAM, arXiv 2102.11600.

    >>> rule = asam_ascent(1.0, 0.0)
    >>> w, d = {"a": jnp.array([1.0, -2.0])}, {"a": jnp.array([3.0, 2.0])}
    >>> rule.ascend(d, (), w, 1.0)[0]["a"].round(3)  # (3, 8) / 5
    Array([0.6, 1.6], dtype=float32)
    """

    def ascend(
        d: Leaves, params: PyTree, state: PyTree, rho: jax.Array
    ) -> tuple[Leaves, PyTree]:
        weights = named_leaves(params)
        sizes = {path: jnp.abs(widened(weights[path])) + kappa for path in d}
        scales, largest = unit_leaves(sizes)
        directions, _ = unit_leaves(d)
        scaled = {path: scales[path] * x for path, x in directions.items()}
        climbed = of_length(scaled, rho * largest)
        return {path: scales[path] * x for path, x in climbed.items()}, state

    return ascent_rule(ascend, rho, mask=mask)


def linf_ascent(
    rho: optax.ScalarOrSchedule = 0.001, *, mask: Mask = None
) -> AscentRule:
    """epsilon = rho sign(d); an entry of 0 stays.

    Args:
        rho: radius of the largest entry of epsilon. Its Euclidean norm is rho times the
            root of the number of entries; the default is no published value.
        mask: as in `l2_ascent`.

    State: none.

    References: Foret et al. 2021, arXiv 2010.01412, appendix, for p = infinity.

    >>> linf_ascent().ascend(jnp.array([2.0, 0.0]), (), jnp.ones(2), 0.1)[0].tolist()
    [0.10000000149011612, 0.0]
    """

    def ascend(
        d: Leaves, params: PyTree, state: PyTree, rho: jax.Array
    ) -> tuple[Leaves, PyTree]:
        del params
        return {path: rho * jnp.sign(x) for path, x in d.items()}, state

    return ascent_rule(ascend, rho, mask=mask)


def climb(
    params: PyTree, epsilon: PyTree, dtype: jax.typing.DTypeLike = jnp.float32
) -> PyTree:
    """params + epsilon, in `dtype` or the wider dtype that a parameter has.

    Where epsilon is None, and where a parameter is not floating, it is the parameter.

    >>> climb(jnp.ones(1, jnp.bfloat16), jnp.full(1, 1e-3)).dtype
    dtype('float32')
    """

    def add(change: jax.Array | None, weight: Any) -> Any:
        if change is None or not jnp.issubdtype(jnp.asarray(weight).dtype, jnp.inexact):
            return weight
        wide = jnp.promote_types(weight.dtype, dtype)
        return (widened(weight) + change).astype(wide)

    return jax.tree.map(add, epsilon, params, is_leaf=lambda x: x is None)


def unit_leaves(leaves: Leaves) -> tuple[dict[str, jax.Array], jax.Array]:
    """`unit_scaled` by path; a leaf without entries stays.

    >>> units, scale = unit_leaves({"a": jnp.array([2.0, -4.0])})
    >>> units["a"].tolist(), float(scale)
    ([0.5, -1.0], 4.0)
    """
    full = {path: x for path, x in leaves.items() if x.size > 0}
    units, scale = unit_scaled(full)
    # A dict is flattened in the order of its keys.
    return dict(leaves) | dict(zip(sorted(full), units, strict=True)), scale


def of_length(leaves: Leaves, length: jax.typing.ArrayLike) -> dict[str, jax.Array]:
    """Leaves scaled to one norm together; zero where all are zero.

    >>> of_length({"a": jnp.array([3.0]), "b": jnp.array([4.0])}, 10.0)["b"].tolist()
    [8.0]
    """
    units, _ = unit_leaves(leaves)
    squares = sum((jnp.sum(jnp.square(jnp.abs(x))) for x in units.values()), 0.0)
    # 0, or 1 and more. `!= 0` lets NaN through; no epsilon, which would be lost, or
    # would bias. The inner `where` keeps derivatives at zero finite.
    inverse = 1 / jnp.sqrt(jnp.where(squares != 0, squares, 1))
    factor = jnp.where(squares != 0, length * inverse, 0)
    return {path: x * factor.astype(jnp.real(x).dtype) for path, x in units.items()}
