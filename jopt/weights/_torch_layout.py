"""How the tensors of torch modules become Flax leaves, and back; arrays in, arrays out.

Torch keeps (out, in) where Flax keeps (in, out), convolutions (O, I, kh, kw) instead of
(kh, kw, I, O), and the projections of an attention layer as one matrix (3 D, D) instead
of three kernels (D, H, K) of H heads of width K. Nothing here needs torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from jopt.matrix import MatrixSpec

Split = Callable[[np.ndarray, int], tuple[np.ndarray, ...]]
Join = Callable[[Sequence[np.ndarray], int], np.ndarray]


class Conversion(NamedTuple):
    """One tensor of a module.

    Attributes:
        leaves: their names in the Flax module.
        split: (tensor, heads) -> leaves.
        join: (leaves, heads) -> tensor.
        axes: how many the tensor has, one of these.
        spec: number of axes of the tensor -> the matrix view of a leaf; None: it is no
            matrix.
        is_state: whether it is a running statistic.
    """

    leaves: tuple[str, ...]
    split: Split
    join: Join
    axes: tuple[int, ...]
    spec: Callable[[int], MatrixSpec | None] = lambda ndim: None
    is_state: bool = False


def kernel_from_torch(weight: np.ndarray) -> np.ndarray:
    """(O, I) -> (I, O) and (O, I, *window) -> (*window, I, O), as a view.

    >>> kernel_from_torch(np.zeros((8, 3, 5, 5))).shape
    (5, 5, 3, 8)
    """
    return np.moveaxis(weight, (0, 1), (-1, -2))


def kernel_to_torch(kernel: np.ndarray) -> np.ndarray:
    """The inverse of `kernel_from_torch`.

    >>> kernel_to_torch(np.zeros((5, 5, 3, 8))).shape
    (8, 3, 5, 5)
    """
    return np.moveaxis(kernel, (-1, -2), (0, 1))


def heads_from_torch(weight: np.ndarray, heads: int) -> np.ndarray:
    """A projection to heads: (H K, D) -> (D, H, K), and its bias (H K,) -> (H, K).

    >>> heads_from_torch(np.zeros((12, 7)), heads=3).shape
    (7, 3, 4)
    """
    return weight.T.reshape(*weight.shape[1:], heads, -1)


def heads_to_torch(kernel: np.ndarray) -> np.ndarray:
    """The inverse of `heads_from_torch`.

    >>> heads_to_torch(np.zeros((7, 3, 4))).shape
    (12, 7)
    """
    *inside, heads, width = kernel.shape
    return kernel.reshape(*inside, heads * width).T


def _one(leaf: str, split: Callable, join: Callable, *axes: int, **more) -> Conversion:
    """A tensor that becomes one leaf."""
    return Conversion(
        (leaf,),
        lambda x, heads: (split(x, heads),),
        lambda xs, heads: join(xs[0], heads),
        axes,
        **more,
    )


def _same(leaf: str, *axes: int, **more) -> Conversion:
    return _one(leaf, lambda x, heads: x, lambda x, heads: x, *axes, **more)


def _kernel(*axes: int) -> Conversion:
    return _one(
        "kernel",
        lambda x, heads: kernel_from_torch(x),
        lambda x, heads: kernel_to_torch(x),
        *axes,
        spec=_matrix,
    )


def _split_fused(x: np.ndarray, heads: int) -> tuple[np.ndarray, ...]:
    return tuple(heads_from_torch(part, heads) for part in np.split(x, 3))


def _join_fused(xs: Sequence[np.ndarray], heads: int) -> np.ndarray:
    return np.concatenate([heads_to_torch(x) for x in xs])


def _fused(leaf: str, axes: int, **more) -> Conversion:
    names = tuple(f"{part}/{leaf}" for part in ("query", "key", "value"))
    return Conversion(names, _split_fused, _join_fused, (axes,), **more)


def _to_heads(leaf: str, axes: int, **more) -> Conversion:
    return _one(
        leaf, heads_from_torch, lambda x, heads: heads_to_torch(x), axes, **more
    )


def _matrix(ndim: int) -> MatrixSpec:
    return MatrixSpec(tuple(range(ndim - 1)), (ndim - 1,))


def _matrix_of_two(ndim: int) -> MatrixSpec | None:
    return _matrix(ndim) if ndim == 2 else None


_FROM_HEADS = _one(
    "kernel",
    lambda x, heads: x.T.reshape(heads, -1, x.shape[0]),
    lambda x, heads: x.reshape(-1, x.shape[-1]).T,
    2,
    spec=lambda ndim: MatrixSpec((0, 1), (2,)),
)
_HEADS = {"spec": lambda ndim: MatrixSpec((0,), (1, 2))}
_BIAS: dict[str, Conversion | None] = {"bias": _same("bias", 1)}
_NORM: dict[str, Conversion | None] = {"weight": _same("scale", 1), **_BIAS}

# kind of module -> its tensors. `None`: no place in Flax, copied as it is.
KINDS: dict[str, dict[str, Conversion | None]] = {
    "linear": {"weight": _kernel(2), **_BIAS},
    "conv": {"weight": _kernel(3, 4, 5), **_BIAS},
    "layer_norm": _NORM,
    "batch_norm": {
        **_NORM,
        "running_mean": _same("mean", 1, is_state=True),
        "running_var": _same("var", 1, is_state=True),
        "num_batches_tracked": None,
    },
    "embedding": {"weight": _same("embedding", 2, spec=_matrix)},
    "attention": {
        "in_proj_weight": _fused("kernel", 2, **_HEADS),
        "in_proj_bias": _fused("bias", 1),
        "q_proj_weight": _to_heads("query/kernel", 2, **_HEADS),
        "k_proj_weight": _to_heads("key/kernel", 2, **_HEADS),
        "v_proj_weight": _to_heads("value/kernel", 2, **_HEADS),
        "out_proj.weight": _FROM_HEADS._replace(leaves=("out/kernel",)),
        "out_proj.bias": _same("out/bias", 1),
    },
    # The projections of an attention layer as linear layers of their own.
    "to_heads": {
        "weight": _to_heads("kernel", 2, **_HEADS),
        "bias": _to_heads("bias", 1),
    },
    "from_heads": {"weight": _FROM_HEADS, **_BIAS},
    # A parameter that belongs to no module, as it is.
    "raw": {"": _same("", *range(9), spec=_matrix_of_two)},
}
WITH_HEADS = ("attention", "to_heads", "from_heads")
