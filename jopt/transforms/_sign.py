"""Sign descent: the steepest direction in the largest-entry norm."""

from __future__ import annotations

import dataclasses
from typing import get_args

import jax
import jax.numpy as jnp
import optax

from jopt.errors import ConfigError, check_choice
from jopt.transforms._counted import counted_descent
from jopt.transforms._dither import add_noise
from jopt.transforms._momentum import Momentum, no_momentum, steepest_descent
from jopt.transforms._nonfinite import NanPolicy, without_nonfinite
from jopt.transforms._specs import MatrixSpecs
from jopt.transforms._views import EntryViews, Views
from jopt.transforms._vote import AxisName, axis_names, majority_vote
from jopt.tree import PyTree


def sign_tree(tree: PyTree) -> PyTree:
    """The sign of every entry; sign(0) = 0, and NaN stays NaN.

    >>> sign_tree({"w": jnp.array([-2.0, 0.0])})["w"].tolist()
    [-1.0, 0.0]
    """
    return jax.tree.map(jnp.sign, tree)


def soft_sign(x: jax.Array, eps: jax.typing.ArrayLike) -> jax.Array:
    """x / (|x| + eps), which is sign(x) to the bit at eps = 0, also for 0.

    >>> soft_sign(jnp.array([3.0, 0.0, -jnp.inf]), 1.0).tolist()
    [0.75, 0.0, -1.0]
    """
    magnitude = jnp.abs(x)
    return jnp.sign(x) / (1 + eps / jnp.where(magnitude == 0, 1, magnitude))


@dataclasses.dataclass(frozen=True)
class SignMap:
    """A map of trees: every entry to its sign, in the dtype of its leaf.

    Attributes:
        axis_name, soft_sign_eps, dither, seed, nan_policy: of `sign_map`.
        views: whose RMS the noise is in proportion to, and where they lie.
    """

    axis_name: AxisName
    soft_sign_eps: jax.typing.ArrayLike | None
    dither: optax.ScalarOrSchedule | None
    seed: jax.typing.ArrayLike
    nan_policy: NanPolicy
    views: Views

    @property
    def counts(self) -> bool:
        """Whether the result depends on the number of the step."""
        return self.dither is not None

    def __call__(self, tree: PyTree, step: jax.Array | None = None) -> PyTree:
        """The signs; `step` is the number of the step, int32, for one that `counts`."""
        voters = () if self.axis_name is None else axis_names(self.axis_name)
        if self.dither is not None:
            assert step is not None
            tree = add_noise(
                tree,
                self.dither,
                step,
                seed=self.seed,
                views=self.views,
                workers=voters,
            )
        if voters:
            return majority_vote(tree, voters, nan_policy=self.nan_policy)
        if self.soft_sign_eps is None:
            return sign_tree(tree)
        eps = self.soft_sign_eps
        return jax.tree.map(lambda x: soft_sign(x, eps), tree)


def sign_map(
    axis_name: AxisName = None,
    *,
    soft_sign_eps: jax.typing.ArrayLike | None = None,
    dither: optax.ScalarOrSchedule | None = None,
    seed: jax.typing.ArrayLike = 0,
    nan_policy: NanPolicy = "propagate",
    matrix_specs: MatrixSpecs = None,
    shardings: PyTree | None = None,
) -> SignMap:
    """How signs are taken, from the arguments of an optimizer; see `scale_by_sign`.

    Fails: `ConfigError` for an unknown `nan_policy`, or a soft sign that is voted on.

    >>> sign_map(soft_sign_eps=1.0)({"w": jnp.array([3.0])})["w"].tolist()
    [0.75]
    """
    check_choice("nan_policy", nan_policy, get_args(NanPolicy))
    if axis_name is not None and soft_sign_eps is not None:
        raise ConfigError(
            "votes are whole, so soft_sign_eps does not go with axis_name="
            f"{axis_name!r}; leave one of them out (dither goes with a vote)"
        )
    views = Views.read(matrix_specs, shardings, others_whole=True)
    return SignMap(axis_name, soft_sign_eps, dither, seed, nan_policy, views)


def sign_descent(
    rule: Momentum, signs: SignMap
) -> optax.GradientTransformationExtraArgs:
    """The signs of the direction of `rule`, in the gradients' dtype.

    Where the signs depend on the step the state is `CountedState`, else that of `rule`.
    With `nan_policy="zero"` an entry whose gradient is not finite gets 0, and its
    momentum stays as it was.

    >>> from jopt.transforms import ema
    >>> tx = sign_descent(ema(0.9), sign_map())
    >>> tx.update(jnp.array([-4.0]), tx.init(jnp.array([0.0])))[0].tolist()
    [-1.0]
    """
    if signs.nan_policy == "zero":
        rule = without_nonfinite(rule, EntryViews())
    return (
        counted_descent(rule, signs) if signs.counts else steepest_descent(rule, signs)
    )


def scale_by_sign(
    axis_name: AxisName = None,
    *,
    soft_sign_eps: jax.typing.ArrayLike | None = None,
    dither: optax.ScalarOrSchedule | None = None,
    seed: jax.typing.ArrayLike = 0,
    nan_policy: NanPolicy = "propagate",
    matrix_specs: MatrixSpecs = None,
    shardings: PyTree | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Replaces every entry by its sign.

    sign(G) maximises <G, D> over all D with largest entry 1, and <G, sign(G)> is the
    sum of the absolute entries. The scale of the gradient has no effect; the RMS of the
    update is 1 where no entry is 0.

    Args:
        axis_name: of `shard_map` or `pmap`, or several: workers vote, see
            `majority_vote`. None: there is one gradient, as under `jit`. Static.
        soft_sign_eps: C / (|C| + eps) instead of sign(C), entry by entry: entries well
            below eps move in proportion. It is in the units of the gradient, whose
            scale then matters. May be traced; 0 is the sign to the bit. Not with a
            vote.
        dither: noise before the sign: sign(C + dither RMS(C) Z), Z standard normal, the
            RMS that of the finite entries of a matrix, or of a whole leaf that has no
            matrix view. An entry c comes out with the other sign with probability
            Phi(-|c| / (dither RMS)), so on average it is erf(|c| / (sqrt(2) dither
            RMS)) long: weak entries lose, strong ones do not. Exactly 0 stays 0, and so
            does the row of an embedding that was never seen. A number, traced or not,
            or a schedule, such as one that falls to 0. Workers draw their own noise
            before they vote.
        seed: of the noise, an integer, traced or not. The noise depends on it, the
            step, the path and the place in a leaf, so a run that is resumed goes on as
            if it had not stopped.
        nan_policy: with `propagate` an entry with NaN stays NaN, and NaN of one worker
            is NaN for all; with `zero` an entry that is not finite gives 0, and does
            not vote. Static.
        matrix_specs, shardings: as in `scale_by_orthogonalization`, but a parameter
            need not be a matrix. They matter to `dither` only. Static.

    State: none, or `CountedState` with a counter where there is a `dither`.
    Fails: `ConfigError` for an unknown `nan_policy`, or a soft sign that is voted on.

    References: Bernstein, Wang, Azizzadenesheli and Anandkumar 2018, signSGD, arXiv
    1802.04434. The soft sign and the noise are not from there.

    >>> tx = scale_by_sign()
    >>> tx.update(jnp.array([-2.0, 0.0, 1e-30]), tx.init(jnp.zeros(3)))[0].tolist()
    [-1.0, 0.0, 1.0]
    """
    signs = sign_map(
        axis_name,
        soft_sign_eps=soft_sign_eps,
        dither=dither,
        seed=seed,
        nan_policy=nan_policy,
        matrix_specs=matrix_specs,
        shardings=shardings,
    )
    return sign_descent(no_momentum(), signs)
