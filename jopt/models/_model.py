"""What a model is to the rest of the library: two pure functions and declarations.

Optimizers never learn which module system stands behind a model. They see nested dicts
of arrays, the matrix view of every weight, and the activation that multiplies it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jopt.errors import ConfigError, ShapeError, nearest
from jopt.matrix import AttentionSpec, MatrixSpec, as_matrix_spec
from jopt.tree import count

Batch = Mapping[str, Any]
Params = dict[str, Any]
ModelState = dict[str, Any]
SpecSource = (
    Mapping[str, MatrixSpec | None]
    | Callable[[str, tuple[int, ...]], MatrixSpec | None]
    | None
)


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """Two pure functions over nested dicts of arrays, and what they declare.

    Attributes:
        init: `init(key, batch) -> (params, model_state)`; equal keys give equal values.
            `model_state` holds what is neither parameter nor randomness (BatchNorm
            statistics) and is `{}` when there is none.
        apply: `apply(params, model_state, batch, *, key, train, taps=()) -> (outputs,
            model_state, taps)`. `taps` names the activations wanted; the dict returned
            holds exactly these. Without `train`, dropout is off, statistics are read
            and not updated, and `key` may be None.
        matrix_specs: the matrix view of every parameter path; None for vectors and
            scalars, also stacked ones.
        taps: weight path -> name of the tap whose activation multiplies that weight.
            With the tap flattened to A (tokens, fan-in) and Y = A W, the gradient of W
            is A^T dY. A tap of integer dtype stands for its one-hot rows. Where the
            view has batch axes (stacked layers), they lead in the tap as well, and each
            matrix has an A of its own.
        tap_names: every name that `apply` accepts in `taps`.
        flops_per_token: sequence length -> floating-point operations of a forward and
            backward pass, for each token.
        vocab_size: number of token ids; 0 where tokens do not apply.
        attention: name of a tap -> the weights behind it. The tap has the largest logit
            of each head of queries, over the batch and the positions that count:
            (heads,), stacked layers first.

    A model hashes by identity, so it can be a static argument of `jax.jit`.
    """

    init: Callable[..., tuple[Params, ModelState]]
    apply: Callable[..., tuple[Any, ModelState, dict[str, jax.Array]]]
    matrix_specs: dict[str, MatrixSpec | None]
    taps: dict[str, str]
    tap_names: tuple[str, ...]
    flops_per_token: Callable[[int], int]
    vocab_size: int = 0
    attention: dict[str, AttentionSpec] = dataclasses.field(default_factory=dict)


def declare_model(
    init: Callable[..., Any],
    apply: Callable[..., Any],
    shapes: Mapping[str, tuple[int, ...]],
    *,
    matrix_specs: SpecSource,
    taps: Mapping[str, str] | None,
    tap_names: Sequence[str],
    flops_per_token: Callable[[int], int] | None,
    vocab_size: int,
    attention: Mapping[str, AttentionSpec] | None = None,
) -> Model:
    """A `Model` from two functions, its declarations checked against the `shapes`.

    The arguments are those of `nnx_model`, which holds for every module system.
    """
    specs = declare_specs(shapes, matrix_specs)
    names = all_taps(taps, tap_names)
    check_attention(attention or {}, shapes, names)
    return Model(
        init=init,
        apply=apply,
        matrix_specs=specs,
        taps=check_taps(taps or {}, specs, names),
        tap_names=names,
        flops_per_token=flops_per_token or matmul_flops(shapes, specs),
        vocab_size=vocab_size,
        attention=dict(attention or {}),
    )


def all_taps(
    taps: Mapping[str, str] | None, tap_names: Sequence[str]
) -> tuple[str, ...]:
    """The taps of weights and the further ones, each once.

    >>> all_taps({"w": "x", "v": "x"}, ["logits"])
    ('x', 'logits')
    """
    return tuple(dict.fromkeys([*(taps or {}).values(), *tap_names]))


def matmul_flops(
    shapes: Mapping[str, tuple[int, ...]], specs: Mapping[str, Any]
) -> Callable[[int], int]:
    """6 operations for each parameter with a matrix view: 2 forward, 4 backward.

    >>> matmul_flops({"w": (2, 3)}, {"w": "a view"})(128)
    36
    """
    arrays = {path: jax.ShapeDtypeStruct(s, jnp.float32) for path, s in shapes.items()}
    flops = 6 * count({p: a for p, a in arrays.items() if specs[p] is not None})
    return lambda seq_len: flops


def declare_specs(
    shapes: Mapping[str, tuple[int, ...]], source: SpecSource
) -> dict[str, MatrixSpec | None]:
    """The matrix view of every parameter, from a mapping or a function.

    The function takes (path, shape). A mapping may leave out vectors and scalars;
    anything with two axes or more has to be declared, since its shape does not tell
    which axes reduce. Optax's `MuonDimensionNumbers` count as views.

    >>> declare_specs({"w": (2, 3), "b": (3,)}, {"w": MatrixSpec((0,), (1,))})["b"]
    """
    if callable(source):
        return {path: _checked(path, source(path, s), s) for path, s in shapes.items()}
    given = dict(source or {})
    check_known(given, shapes, "matrix_specs names a parameter that does not exist")
    missing = [p for p, s in shapes.items() if len(s) >= 2 and p not in given]
    if missing:
        listed = "\n".join(f"  {path} {shapes[path]}" for path in missing)
        raise ConfigError(
            f"{len(missing)} parameters have no matrix view:\n{listed}\n"
            "declare a MatrixSpec for each in matrix_specs, or None to treat it as a "
            "vector"
        )
    return {path: _checked(path, given.get(path), s) for path, s in shapes.items()}


def _checked(path: str, view: Any, shape: tuple[int, ...]) -> MatrixSpec | None:
    if view is None:
        return None
    try:
        spec = as_matrix_spec(view)
        spec.blocks(shape)
    except (ConfigError, ShapeError) as error:
        raise type(error)(f"matrix view of {path}: {error}") from error
    return spec


def check_taps(
    taps: Mapping[str, str], specs: Mapping[str, Any], tap_names: Sequence[str]
) -> dict[str, str]:
    """`taps` as a dict, once its weights and tap names are known to exist."""
    check_known(taps, specs, "taps names a weight that does not exist")
    check_known(taps.values(), tap_names, "a weight has a tap that does not exist")
    return dict(taps)


def check_attention(
    attention: Mapping[str, AttentionSpec],
    shapes: Mapping[str, tuple[int, ...]],
    tap_names: Sequence[str],
) -> None:
    """Fails for attention layers whose tap, weights or heads do not exist."""
    check_known(attention, tap_names, "attention names a tap that does not exist")
    for layer in attention.values():
        for heads in (layer.queries, layer.keys):
            check_known([heads.path], shapes, "attention has a weight that is missing")
            _checked(heads.path, heads.spec, shapes[heads.path])


def check_known(names: Iterable[str], known: Iterable[str], problem: str) -> None:
    """Raises `ConfigError` for the first of `names` that is not among `known`."""
    known = list(known)
    for name in names:
        if name not in known:
            close = nearest(name, known)
            hint = f"did you mean {close}?" if close else f"known: {', '.join(known)}"
            raise ConfigError(f"{problem}: {name}\n  {hint}")
