"""Linear layers made up for the study of the Spec-Sign index, and their gradients."""

from __future__ import annotations

import functools
import zlib
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jopt.linalg._einsum import einsum

# K microbatches; T tokens of one; D rows of a data set; M, N fan-in and fan-out.

MICROBATCHES = 8
POOL = 4096  # rows of the data set of `relu_regression`
SPIKES = 0.02  # share of the entries
NOISE_RANK = 4

Kind = Literal["additive", "regression", "rows"]


class Generator(NamedTuple):
    """What a family of layers is.

    Attributes:
        text: its noise, for the table's reader.
        kind: `additive`: G plus Gaussian noise of a structure; `regression`: samples
            with Gaussian inputs; `rows`: samples drawn from a finite data set.
        activations: the Gram matrices it is tried with.
        levels: of the noise: the length of one sample's noise over that of G, or, of
            regressions, the label noise over the size of the residual.
    """

    text: str
    kind: Kind
    activations: tuple[str, ...]
    levels: tuple[float, ...]


SPECTRA = ("flat", "power1", "power2")
LEVELS = (2.0, 8.0, 32.0)
LABELS = (0.3, 1.0, 3.0)
GENERATORS = {
    "regression": Generator(
        "least squares, Gaussian inputs, label noise", "regression", SPECTRA, LABELS
    ),
    "relu_regression": Generator(
        f"least squares, {POOL} inputs behind a ReLU, label noise",
        "rows",
        ("relu",),
        LABELS,
    ),
    "gaussian": Generator("independent entries", "additive", SPECTRA, LEVELS),
    "low_rank": Generator(
        f"Gaussian in fixed subspaces of dimension {NOISE_RANK} on both sides",
        "additive",
        SPECTRA,
        LEVELS,
    ),
    "spiky": Generator(
        f"{SPIKES:.0%} of the entries, others in each microbatch",
        "additive",
        SPECTRA,
        LEVELS,
    ),
    "outliers": Generator(
        f"{SPIKES:.0%} of the entries, always the same", "additive", SPECTRA, LEVELS
    ),
    "activation": Generator(
        "C^1/2 times independent entries", "additive", SPECTRA, LEVELS
    ),
    "common_mode": Generator(
        "the same, C with a common mode", "additive", ("common",), LEVELS
    ),
}
TARGETS = ("dense", "rank2", "sparse")


class Setting(NamedTuple):
    """One layer of the study; `seed` tells layers apart that share all else."""

    generator: str
    fan_in: int
    fan_out: int
    batch: int
    activations: str
    target: str
    level: float
    seed: int

    @property
    def id(self) -> str:
        return "-".join(map(str, self))


class Layer(NamedTuple):
    """Least squares at W: gradient G = C (W - W*), Hessian U -> C U.

    Attributes:
        gram: C, (M, M), of trace M.
        error: W - W*, (M, N), of which C sees a residual of mean square 1.
        source: what minibatch gradients are drawn from, see `minibatches`.
    """

    gram: Any
    error: Any
    source: dict[str, Any]


def make_layer(setting: Setting) -> Layer:
    """The layer of a setting, float32 arrays of NumPy; the same every time.

    >>> make_layer(Setting("gaussian", 4, 3, 64, "flat", "dense", 2.0, 0)).error.shape
    (4, 3)
    """
    rng = np.random.default_rng(zlib.crc32(setting.id.encode()))
    generator = GENERATORS[setting.generator]
    fan_in, fan_out = setting.fan_in, setting.fan_out
    source: dict[str, Any] = {}
    if generator.kind == "rows":
        rows_DM = _relu_rows(rng, fan_in)
        source["rows"] = rows_DM
        gram = rows_DM.T @ rows_DM / len(rows_DM)
    else:
        gram = _gram(rng, setting.activations, fan_in)
    error = _target(rng, setting.target, fan_in, fan_out)
    error *= np.sqrt(fan_out / np.sum(error * (gram @ error)))
    if generator.kind == "additive":
        structure = _structure(rng, setting, gram)
        length = np.linalg.norm(gram @ error)
        share = setting.level * length / np.sqrt(setting.batch / MICROBATCHES)
        source |= structure | {"level": share / _length(**structure)}
    else:
        source["level"] = np.asarray(setting.level)
        if generator.kind == "regression":
            source["root"] = _root(gram)
    return jax.tree.map(np.float32, Layer(gram, error, source))


@functools.partial(jax.jit, static_argnums=(1, 2, 4))
def minibatches(
    layer: Layer, kind: Kind, batch: int, key: jax.Array, count: int
) -> jax.Array:
    """Gradients of the microbatches of minibatches, (`count`, K, M, N), mean G each.

    Args:
        kind: of the generator; static.
        batch: samples of a minibatch; static. The level of additive noise has it
            already, and only that.
        count: static.
    """
    keys = jax.random.split(key, count)
    return jax.lax.map(lambda key: _microbatches(layer, kind, batch, key), keys)


def _microbatches(layer: Layer, kind: Kind, batch: int, key: jax.Array) -> jax.Array:
    shape = (MICROBATCHES, *layer.error.shape)
    source = layer.source
    if kind == "additive":
        values, places = jax.random.split(key)
        z_KMN = jax.random.normal(values, shape)
        share = source["share"]
        spike = jax.random.uniform(places, shape) < share
        z_KMN = jnp.where(spike, z_KMN / jnp.sqrt(share), 0.0)
        noise_KMN = einsum("am,kmn,nb->kab", source["left"], z_KMN, source["right"])
        gradient = einsum("am,mn->an", layer.gram, layer.error)
        return gradient + source["level"] * source["mask"] * noise_KMN
    tokens = batch // MICROBATCHES
    of_inputs, of_labels = jax.random.split(key)
    if kind == "rows":
        rows = source["rows"]
        drawn = jax.random.randint(of_inputs, (MICROBATCHES, tokens), 0, len(rows))
        x_KTM = rows[drawn]
    else:
        z_KTM = jax.random.normal(of_inputs, (MICROBATCHES, tokens, shape[1]))
        x_KTM = einsum("ktm,ma->kta", z_KTM, source["root"])
    residual_KTN = einsum("ktm,mn->ktn", x_KTM, layer.error)
    labels_KTN = jax.random.normal(of_labels, residual_KTN.shape)
    residual_KTN += source["level"] * labels_KTN
    return einsum("ktm,ktn->kmn", x_KTM, residual_KTN) / tokens


def _gram(rng: np.random.Generator, name: str, size: int) -> np.ndarray:
    powers = {"flat": 0.0, "power1": 1.0, "power2": 2.0, "common": 1.0}
    values = np.arange(1.0, size + 1) ** -powers[name]
    basis = np.linalg.qr(rng.standard_normal((size, size)))[0]
    gram = (basis * (values * size / values.sum())) @ basis.T
    if name == "common":
        mode = np.abs(rng.standard_normal(size))
        gram = 0.4 * gram + 0.6 * size * np.outer(mode, mode) / (mode @ mode)
    return gram


def _relu_rows(rng: np.random.Generator, size: int) -> np.ndarray:
    hidden = max(1, size // 2)
    rows = rng.standard_normal((POOL, hidden)) @ rng.standard_normal((hidden, size))
    rows = np.maximum(rows, 0)
    return rows * np.sqrt(size / np.mean(np.sum(rows**2, -1)))


def _target(rng: np.random.Generator, name: str, rows: int, cols: int) -> np.ndarray:
    dense = rng.standard_normal((rows, cols))
    if name == "rank2":
        return dense[:, :2] @ rng.standard_normal((2, cols))
    if name == "sparse":
        kept = rng.permutation(rows * cols) < max(1, round(SPIKES * rows * cols))
        return dense * kept.reshape(rows, cols)
    return dense


def _structure(
    rng: np.random.Generator, setting: Setting, gram: np.ndarray
) -> dict[str, Any]:
    """Noise is mask * (left Z right), Z independent, zero but for a share."""
    fan_in, fan_out = setting.fan_in, setting.fan_out
    left, right = np.eye(fan_in), np.eye(fan_out)
    mask, share = np.ones((fan_in, fan_out)), 1.0
    if setting.generator == "low_rank":
        left, right = _projection(rng, fan_in), _projection(rng, fan_out)
    elif setting.generator == "spiky":
        share = SPIKES
    elif setting.generator == "outliers":
        mask = _target(rng, "sparse", fan_in, fan_out) != 0
    elif setting.generator in ("activation", "common_mode"):
        left = _root(gram)
    return {"left": left, "right": right, "mask": mask, "share": np.asarray(share)}


def _length(
    left: np.ndarray, right: np.ndarray, mask: np.ndarray, share: np.ndarray
) -> float:
    """The root mean square of ||mask * (left Z right)||_F, entries of Z of variance 1.

    `minibatches` gives Z that variance whatever `share` is.
    """
    rows, cols = np.sum(left**2, 1), np.sum(right**2, 0)
    return float(np.sqrt(np.sum(np.outer(rows, cols) * mask)))


def _projection(rng: np.random.Generator, size: int) -> np.ndarray:
    basis = np.linalg.qr(rng.standard_normal((size, min(NOISE_RANK, size))))[0]
    return basis @ basis.T


def _root(gram: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(gram)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
