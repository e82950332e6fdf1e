"""How large the update of a matrix should be, given its shape."""

from __future__ import annotations

import dataclasses
import math
from functools import partial
from typing import Any, Literal, get_args

import jax
import optax

from jopt.errors import check_choice
from jopt.linalg import normalize, widened
from jopt.transforms._dispatch import Spread
from jopt.transforms._specs import MatrixSpecs
from jopt.transforms._views import Views
from jopt.tree import PyTree

# S stacked matrices; M fan-in; N fan-out.

ShapeMode = Literal[
    "none",
    "jordan",
    "spectral_mup",
    "match_rms_adamw",
    "match_rms",
    "unit_rms",
    "inverse_fan_in",
]
MODES = get_args(ShapeMode)
ADAMW_RMS = 0.2  # measured RMS of AdamW's update, as Moonlight uses it
KAPPA = math.sqrt((1 - 0.9) / (1 + 0.9))  # analytic RMS of AdamW's update at b1 = 0.9


def shape_scale(mode: ShapeMode, fan_in: int, fan_out: int, kappa: Any = KAPPA) -> Any:
    """The factor of `scale_by_shape`, or None where it depends on the values.

    >>> shape_scale("jordan", 64, 256), shape_scale("jordan", 256, 64)
    (2.0, 1.0)
    """
    check_mode(mode)
    if mode == "unit_rms":
        return None
    if mode == "none" or 0 in (fan_in, fan_out):
        return 1.0
    if mode == "jordan":
        return math.sqrt(max(1.0, fan_out / fan_in))
    if mode == "spectral_mup":
        return math.sqrt(fan_out / fan_in)
    if mode == "inverse_fan_in":
        return 1 / fan_in
    return (ADAMW_RMS if mode == "match_rms_adamw" else kappa) * math.sqrt(
        max(fan_in, fan_out)
    )


def check_mode(mode: str) -> None:
    """Fails with `ConfigError` for a mode that `scale_by_shape` does not have.

    >>> check_mode("jordan")
    """
    check_choice("shape scale", mode, MODES)


def scale_by_shape(
    mode: ShapeMode = "match_rms_adamw",
    *,
    kappa: jax.typing.ArrayLike = KAPPA,
    rms: jax.typing.ArrayLike = 1.0,
    matrix_specs: MatrixSpecs = None,
    shardings: PyTree | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Multiplies each matrix by a factor that depends on its shape.

    For an update O of operator norm 1:

    - `none`: 1.
    - `jordan`: sqrt(max(1, fan_out / fan_in)), for learning rates of 0.02 to 0.05.
    - `spectral_mup`: sqrt(fan_out / fan_in), so that O maps inputs of RMS 1 to outputs
      of RMS at most 1 and learning rates carry over between widths.
    - `match_rms_adamw`: 0.2 sqrt(max(fan_in, fan_out)). An exact polar factor of full
      rank has RMS 1 / sqrt(max(fan_in, fan_out)), so the update has RMS 0.2 as AdamW's
      has, and AdamW's learning rate and weight decay can be used.
    - `match_rms`: kappa sqrt(max(fan_in, fan_out)).
    - `unit_rms`: rms sqrt(fan_in fan_out) / ||O||_F: RMS 1, or what `rms` says, at any
      rank and however exact O is. A zero matrix stays zero.

    For an update of largest entry 1, a sign:

    - `inverse_fan_in`: 1 / fan_in, so that inputs of entries up to 1 change no output
      by more than 1; for output layers.

    The other modes take a sign as well, but their reasons are those of O: only
    `unit_rms`, which changes nothing on a sign without zeros, says what it gives.

    Each block of a fused output (`MatrixSpec.split`), each head and each stacked matrix
    has its own factor. Weight decay that is added after this is not scaled.

    Args:
        mode: one of the above. Static.
        kappa: RMS of the update for `match_rms`; the default, 0.229, is AdamW's for
            gradients without memory, sqrt((1 - b1) / (1 + b1)) at b1 = 0.9. May be
            traced.
        rms: of the update, for `unit_rms`. May be traced.
        matrix_specs, shardings: as in `scale_by_orthogonalization`. Static. Only inside
            `shard_map` do shardings matter: shapes and norms are those of whole
            matrices.

    State: none.
    Fails: `ConfigError` for an unknown mode; `ShapeError` at init for parameters that
    cannot be seen as matrices.

    References: Jordan et al. 2024, Muon (blog and code), for `jordan`; Bernstein and
    Newhouse 2024, Old optimizer, new norm, arXiv 2409.20325, and Pethick et al. 2025,
    Scion, arXiv 2502.07529, for `spectral_mup` and `inverse_fan_in`; Liu et
    al. 2025, Muon is scalable, arXiv 2502.16982, for `match_rms_adamw`.

    >>> import jax.numpy as jnp
    >>> tx = scale_by_shape("jordan")
    >>> ones = {"w": jnp.ones((1, 4))}
    >>> tx.update(ones, tx.init(ones))[0]["w"].tolist()
    [[2.0, 2.0, 2.0, 2.0]]
    """
    scaled = shape_map(
        mode, kappa=kappa, rms=rms, matrix_specs=matrix_specs, shardings=shardings
    )

    def init(params: PyTree) -> optax.EmptyState:
        scaled.views.specs(params)
        return optax.EmptyState()

    def update(
        updates: PyTree,
        state: optax.EmptyState,
        params: PyTree = None,
        **extra_args: object,
    ) -> tuple[PyTree, optax.EmptyState]:
        del params, extra_args
        return scaled(updates), state

    return optax.GradientTransformationExtraArgs(init, update)


@dataclasses.dataclass(frozen=True)
class ShapeMap:
    """A map of trees: each matrix times its factor, in the dtype of its leaf.

    Attributes:
        mode, kappa, rms: of `scale_by_shape`.
        views: what the matrices are, and where they lie.
    """

    mode: ShapeMode
    kappa: jax.typing.ArrayLike
    rms: jax.typing.ArrayLike
    views: Views

    def __call__(self, tree: PyTree) -> PyTree:
        """The tree, scaled."""
        scaled = partial(_scaled, mode=self.mode, kappa=self.kappa, rms=self.rms)
        return self.views.map(scaled, tree)


def shape_map(
    mode: ShapeMode = "match_rms_adamw",
    *,
    kappa: jax.typing.ArrayLike = KAPPA,
    rms: jax.typing.ArrayLike = 1.0,
    matrix_specs: MatrixSpecs = None,
    shardings: PyTree | None = None,
) -> ShapeMap:
    """What `scale_by_shape` does to a tree, for geometries that are put together.

    >>> import jax.numpy as jnp
    >>> shape_map("jordan")({"w": jnp.ones((1, 4))})["w"].tolist()
    [[2.0, 2.0, 2.0, 2.0]]
    """
    check_mode(mode)
    return ShapeMap(mode, kappa, rms, Views.read(matrix_specs, shardings))


def _scaled(
    spread: Spread,
    x_SMN: jax.Array,
    *,
    mode: ShapeMode,
    kappa: jax.typing.ArrayLike,
    rms: jax.typing.ArrayLike,
) -> jax.Array:
    wide_SMN = widened(x_SMN)
    fan_in, fan_out = x_SMN.shape[1] * spread.rows, x_SMN.shape[2] * spread.columns
    factor = shape_scale(mode, fan_in, fan_out, kappa)
    if factor is None:
        wide_SMN = normalize(wide_SMN, axis_name=spread.names or None)
        factor = rms * math.sqrt(fan_in * fan_out)
    return (wide_SMN * factor).astype(x_SMN.dtype)
