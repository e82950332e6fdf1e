"""Which dtype and which engine are used where nobody says: measured, by platform."""

from __future__ import annotations

import functools
from importlib import metadata
from pathlib import Path

import jax
import jax.numpy as jnp

# The jaxlib versions whose XLA was measured to multiply bfloat16 faster than float32 on
# a CPU with instructions for it, and the dtype of the results with which it is fastest
# (docs/polar_factors.md): the other one takes up to twice as long.
_CPU_BFLOAT16 = {"0.10": "float32", "0.12": "bfloat16"}
# Names that Linux gives these instructions on x86.
_BFLOAT16_FEATURES = {"avx512_bf16", "amx_bf16"}

# Products whose result is Hermitian need one triangle of it. In three blocks of columns
# that took .66 to .92 of the whole product on a CPU from this size on, and no less than
# it below (docs/polar_factors.md). More blocks were a little faster for few matrices,
# but their copies need more memory. Blocks end at a multiple of what vectors hold.
_TRIANGLE_BLOCKS = 3
_TRIANGLE_ROWS = 448
_TRIANGLE_MULTIPLE = 32

# From this ratio of columns to rows on the Gram iteration costs less.
GRAM_ASPECT = 2


def default_compute_dtype(dtype: jax.typing.DTypeLike) -> jnp.dtype:
    """The dtype of the products for input of one dtype.

    bfloat16 for float32 and narrower on a CPU with instructions for it and a jaxlib in
    which they were measured to be faster; else float32, or the dtype of the input where
    that is wider or complex. GPUs and TPUs were not measured and get float32. Asks JAX
    for its backend.

    >>> default_compute_dtype(jnp.complex64)
    dtype('complex64')
    """
    wide = jnp.promote_types(dtype, jnp.float32)
    if wide == jnp.float32 and jax.default_backend() == "cpu" and _fast_bfloat16():
        return jnp.dtype(jnp.bfloat16)
    return wide


def bfloat16_result() -> jnp.dtype:
    """The dtype in which products of bfloat16 factors return.

    float32 where XLA then is faster, else bfloat16: it has the same range, and loses
    nothing that the next factor would keep. Asks JAX for its backend.

    >>> bfloat16_result() in (jnp.bfloat16, jnp.float32)
    True
    """
    on_cpu = jax.default_backend() == "cpu"
    name = _CPU_BFLOAT16.get(_jaxlib_series()) if on_cpu else None
    return jnp.dtype(name or jnp.bfloat16)


@functools.cache
def _fast_bfloat16() -> bool:
    return _jaxlib_series() in _CPU_BFLOAT16 and bool(
        _BFLOAT16_FEATURES & _cpu_features()
    )


def _jaxlib_series() -> str:
    return ".".join(metadata.version("jaxlib").split(".")[:2])


def _cpu_features() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux: nobody measured there
        return set()
    flags = next((line for line in lines if line.startswith("flags")), "")
    return set(flags.partition(":")[2].split())


def triangle_edges(rows: int) -> tuple[int, ...]:
    """Where to cut a Hermitian product of so many rows into blocks of columns.

    Each block is computed from the diagonal down. Nothing is the whole product: below
    448 rows, and on GPUs and TPUs, which were not measured. Asks JAX for its backend.

    >>> triangle_edges(256)
    ()
    """
    if rows < _TRIANGLE_ROWS or jax.default_backend() != "cpu":
        return ()
    multiple = _TRIANGLE_BLOCKS * _TRIANGLE_MULTIPLE
    inner = [
        number * rows // multiple * _TRIANGLE_MULTIPLE
        for number in range(1, _TRIANGLE_BLOCKS)
    ]
    return (0, *inner, rows)


def default_method(rows: int, columns: int) -> str:
    """`gram` for matrices at least twice as wide as high, else `newton_schulz`.

    >>> default_method(64, 256), default_method(64, 64)
    ('gram', 'newton_schulz')
    """
    return "gram" if columns >= GRAM_ASPECT * rows else "newton_schulz"
