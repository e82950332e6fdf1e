"""From the two passes of a loss to an oracle: groups, devices, keys."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jopt.errors import ConfigError, ShapeError, check_choice
from jopt.transforms._sam_passes import FirstPass
from jopt.transforms._sharpness import Sharpness, SharpnessState, floating_leaves
from jopt.transforms._varying import Axes, Groups, as_axes, mean_over, varying
from jopt.tree import PyTree

PerturbSync = Literal["local", "global"]


class SharpnessOracle(NamedTuple):
    """A gradient oracle with a state.

    Attributes:
        init: `init(params) -> state`, a `SharpnessState`.
        apply: `apply(state, *args, **kwargs) -> ((value, aux), grads, state, metrics)`
            with the arguments of the loss; `aux` is None without `has_aux`, and
            `metrics` are those of the state.
    """

    init: Callable[[PyTree], Any]
    apply: Callable[..., tuple[tuple[jax.Array, Any], PyTree, Any, dict[str, Any]]]


def sharpness_oracle(
    first: FirstPass,
    member: Sharpness,
    *,
    argnums: int = 0,
    group_size: int | None = None,
    batch_argnums: int | Sequence[int] = 1,
    axis_name: Hashable | tuple[Hashable, ...] | None = None,
    perturb_sync: PerturbSync = "local",
    reuse_rng: bool = True,
) -> SharpnessOracle:
    """The oracle of a member; the arguments are those of `sam_value_and_grad`.

    >>> from jopt.transforms._sam_passes import plain
    >>> oracle = sharpness_oracle(plain(lambda w: w**2, False), Sharpness())
    >>> round(float(oracle.apply(oracle.init(1.0), jnp.float32(1.0))[1]), 3)
    2.1
    """
    check_choice("perturb_sync", perturb_sync, get_args(PerturbSync))
    if member.combine.learning_rate is not None:
        raise ConfigError(
            "a gradient oracle has no base optimizer to add the decoupled term of wsam "
            "outside of; use sharpness_aware, or wsam(decoupled=False)"
        )
    axes = as_axes(axis_name)
    together = bool(axes) and perturb_sync == "global"
    if together and group_size is not None:
        raise ConfigError(
            "group_size makes groups climb apart and perturb_sync='global' makes all "
            "devices climb together; leave one of them out"
        )
    rows = (batch_argnums,) if isinstance(batch_argnums, int) else tuple(batch_argnums)

    def one(args: _Arguments, state: SharpnessState, own: Axes) -> tuple[Any, ...]:
        """Of one group on one device. Value, gradient and state are means."""
        params = args.positional[argnums]

        def call(
            fn: Callable[..., Any], p: PyTree, again: bool, chosen: Any = None
        ) -> Any:
            used = args.folded(1) if again and not reuse_rng else args
            if chosen is not None:
                used = used.mapped(rows, lambda x: jnp.take(x, chosen, axis=0))
            return used.replaced({argnums: p}).to(fn)

        passes = first(call, varying(params, axes))
        grads = floating_leaves(params, passes.grads)

        def grad_at(other: PyTree) -> PyTree:
            found = floating_leaves(params, passes.grad_at(varying(other, axes)))
            return mean_over(found, axes) if together else found

        if together:
            grads = mean_over(grads, axes)
        climbing = () if together else own
        combined = member.gradient(state, params, grads, grad_at, climbing)
        value = mean_over(passes.value, own)
        return value, passes.aux, mean_over(combined.grads, climbing), combined.state

    def apply(state: SharpnessState, *positional: Any, **named: Any) -> Any:
        args = _Arguments(positional, named)
        if not reuse_rng:
            args.check_keys()
        if group_size is None:
            value, aux, grads, state = one(args, state, axes)
        else:
            batch = _groups([positional[place] for place in rows], group_size)
            count = jax.tree.leaves(batch)[0].shape[0]

            def group(number: jax.Array, parts: list[Any]) -> tuple[Any, ...]:
                own = args.replaced(dict(zip(rows, parts, strict=True)))
                own = own.folded(number) if count > 1 else own
                zero = jnp.zeros_like(number, jnp.float32)
                return one(own, state, (Groups(zero * number), *axes))

            value, aux, grads, state = jax.vmap(group, out_axes=(None, 0, None, None))(
                jnp.arange(count), batch
            )
        grads = _with_integers(grads, positional[argnums])
        return (value, aux), grads, state, state.metrics

    return SharpnessOracle(member.init, apply)


class _Arguments(NamedTuple):
    """What a loss is called with."""

    positional: tuple[Any, ...]
    named: dict[str, Any]

    def to(self, fn: Callable[..., Any]) -> Any:
        return fn(*self.positional, **self.named)

    def replaced(self, new: dict[int, Any]) -> _Arguments:
        found = (new.get(i, x) for i, x in enumerate(self.positional))
        return self._replace(positional=tuple(found))

    def mapped(self, places: Sequence[int], fn: Callable[[Any], Any]) -> _Arguments:
        return self.replaced(
            {place: jax.tree.map(fn, self.positional[place]) for place in places}
        )

    def folded(self, number: jax.typing.ArrayLike) -> _Arguments:
        """With other typed keys."""
        return jax.tree.map(
            lambda x: jax.random.fold_in(x, number) if _is_key(x) else x, self
        )

    def check_keys(self) -> None:
        if not any(_is_key(leaf) for leaf in jax.tree.leaves(self)):
            raise ConfigError(
                "reuse_rng=False gives the second pass other keys, but no argument of "
                "the loss is a typed key; pass jax.random.key(seed), or wrap the key "
                "data by jax.random.wrap_key_data"
            )


def _is_key(leaf: Any) -> bool:
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)


def _groups(batch: list[Any], size: int) -> list[Any]:
    """Each leaf (N, ...) as (N / size, size, ...)."""
    lengths = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(batch)}
    if len(lengths) != 1 or lengths == {()}:
        raise ShapeError(
            f"the batch arguments have first axes of {sorted(lengths)}; group_size "
            "needs one number of examples, see batch_argnums"
        )
    [(length,)] = lengths
    if size < 1 or length % size:
        raise ShapeError(
            f"group_size is {size}, which does not divide the {length} examples of the "
            "batch"
        )
    return jax.tree.map(
        lambda x: jnp.reshape(x, (length // size, size, *jnp.shape(x)[1:])), batch
    )


def _with_integers(grads: PyTree, params: PyTree) -> PyTree:
    """What `jax.grad` with `allow_int` gives of a leaf that is not floating."""
    return jax.tree.map(
        lambda w, g: np.zeros(jnp.shape(w), jax.dtypes.float0) if g is None else g,
        params,
        grads,
    )
