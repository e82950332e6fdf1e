"""A run done twice: once for its end, once to look at it from there."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import jax

from jopt.errors import ReplayError, check_choice
from jopt.landscape.paths._point import path_point
from jopt.landscape.paths._recorder import Recorder, difference
from jopt.landscape.paths._trace import PathTrace
from jopt.tree import PyTree, count, digest, global_norm

State = Any
Check = Literal["bitwise", "allclose"]
TrainFn = Callable[[State], tuple[PyTree, PyTree, State]]
CLOSE = 1e-5
LAGS = (1, 2, 5, 10, 20, 50)

_params_of = operator.attrgetter("params")


def two_pass(
    train_fn: TrainFn,
    init_state: State | Callable[[], State],
    *,
    steps: int,
    metrics: Callable[..., Any] = path_point,
    check: Check = "bitwise",
    every: int = 1,
    lags: Sequence[int] = (),
    others: Mapping[str, Callable[[State], PyTree | None]] | None = None,
    advance: Callable[[State], State] | None = None,
    params_of: Callable[[State], PyTree] = _params_of,
) -> PathTrace:
    """Trains, trains again, and measures the second time against the first one's end.

    The path quantities need w_T before it is known, and no sketch of w and g replaces
    them: gamma is 1e-3 to 1e-1, below the error 1 / sqrt(k) of any practical sketch.
    So the first pass keeps w_T alone, and the second records, before each update,
    `metrics` of the gradient and of the applied update w_{t+1} - w_t.

    Args:
        train_fn: state -> (w_t, g_t, next state), a function of the state alone: the
            data order and the random numbers must follow from it. It may take over the
            buffers of the state if the parameters it returns are a copy.
        init_state: the first state, or a function that makes it, which is called for
            each pass; needed where `train_fn` takes over buffers.
        steps: T.
        metrics: (params, grads, reference, updates=...) -> a NamedTuple or dict of
            scalars, jitted here.
        check: what the two ends must be: `bitwise` the same, or `allclose`, a distance
            of at most 1e-5 ||w_T||, for devices whose sums have no fixed order.
        every: steps between points.
        lags: in steps, multiples of `every`: cosines of the off-path component
            g - RSI (w - w*) with that so many steps earlier, as columns `lag_K`. Keeps
            max(lags) / every gradients in memory.
        others: name -> (state -> another gradient at w_t, or None for no measurement at
            this step), called before `train_fn`: `fresh`, of a batch that the path does
            not use, and `full`, of all data, for example. Columns `NAME_FIELD`.
        advance: state -> next state, bitwise as `train_fn` but without the gradient;
            used where no point is recorded.
        params_of: the parameters in a state.

    Returns: `PathTrace`.
    Cost: with `advance` and no `others`, T + T (1 + r / every) steps, where r is the
    share of the gradient in a step; else 2 T. One more copy of the parameters.
    Fails: `ReplayError`, with the distance, where the second pass ends elsewhere: what
    it measured is then of no path. `ConfigError` for an argument out of range.
    Reference: section 3 of Guille-Escuret et al., ICML 2024, arXiv 2306.11922 (who keep
    the end of a run and do it again); the bitwise check is ours.

    >>> import jax.numpy as jnp
    >>> def train_fn(w):  # of f = ||w||^2
    ...     return w, 2 * w, w - 0.25 * 2 * w
    >>> start = jnp.array([4.0, 3.0])
    >>> trace = two_pass(train_fn, start, steps=8, params_of=lambda w: w)
    >>> trace.replay_distance, trace["gamma"].round(3).tolist()[:3]
    (0.0, [1.0, 1.0, 1.0])
    """
    forward = advance or (lambda state: train_fn(state)[2])
    state = _start(init_state)
    for _ in range(steps):
        state = forward(state)
    return measure_path(
        train_fn,
        init_state,
        params_of(state),
        steps=steps,
        metrics=metrics,
        check=check,
        every=every,
        lags=lags,
        others=others,
        advance=advance,
        params_of=params_of,
    )


def measure_path(
    train_fn: TrainFn,
    init_state: State | Callable[[], State],
    reference: PyTree,
    *,
    steps: int,
    metrics: Callable[..., Any] = path_point,
    check: Check = "bitwise",
    every: int = 1,
    lags: Sequence[int] = (),
    others: Mapping[str, Callable[[State], PyTree | None]] | None = None,
    advance: Callable[[State], State] | None = None,
    params_of: Callable[[State], PyTree] = _params_of,
) -> PathTrace:
    """The second pass of `two_pass`, where the end of the first one is known.

    Args and failures as there; `reference` is w_T.

    >>> import jax.numpy as jnp
    >>> end = jnp.array([1.0])
    >>> trace = measure_path(
    ...     lambda w: (w, 2 * w, w / 2), jnp.array([4.0]), end, steps=2,
    ...     params_of=lambda w: w)
    >>> trace["distance"].tolist()
    [3.0, 1.0]
    """
    check_choice("check", check, ("bitwise", "allclose"))
    recorder = Recorder(metrics, reference, every, lags)
    state = _start(init_state)
    for step in range(steps):
        if step % every and advance is not None:
            state = advance(state)
            continue
        state = _visit(
            recorder, step, state, train_fn, others, params_of, record=not step % every
        )
    end = params_of(state)
    distance = _compare(end, reference, check, steps)
    return recorder.trace(steps, count(reference), distance)


def checkpoint_path(
    train_fn: TrainFn,
    states: Iterable[tuple[int, State]],
    reference: PyTree,
    *,
    total: int,
    metrics: Callable[..., Any] = path_point,
    others: Mapping[str, Callable[[State], PyTree | None]] | None = None,
    params_of: Callable[[State], PyTree] = _params_of,
) -> PathTrace:
    """The points of stored states, without a second pass: `references="checkpoints"`.

    Each state has the parameters and the place in the data, so `train_fn` computes its
    gradient afterwards. Nothing is replayed and nothing checked, and there are as many
    points as states; the recorded step of each state is taken once.

    Args:
        train_fn, metrics, others, params_of: as in `two_pass`.
        states: (steps taken, state), ascending.
        reference: w_T.
        total: T.

    >>> import jax.numpy as jnp
    >>> states = [(0, jnp.array([4.0])), (1, jnp.array([2.0]))]
    >>> trace = checkpoint_path(
    ...     lambda w: (w, 2 * w, w / 2), states, jnp.array([1.0]), total=2,
    ...     params_of=lambda w: w)
    >>> trace["distance"].tolist(), trace.replay_distance
    ([3.0, 1.0], nan)
    """
    recorder = Recorder(metrics, reference, 1, ())
    for step, state in states:
        _visit(recorder, step, state, train_fn, others, params_of, record=True)
    return recorder.trace(total, count(reference), float("nan"))


def _start(init_state: State | Callable[[], State]) -> State:
    return init_state() if callable(init_state) else init_state


def _visit(
    recorder: Recorder,
    step: int,
    state: State,
    train_fn: TrainFn,
    others: Mapping[str, Callable[[State], PyTree | None]] | None,
    params_of: Callable[[State], PyTree],
    *,
    record: bool,
) -> State:
    """One step, with its point where `record`; returns the next state."""
    found = {}
    for name, gradient in (others or {}).items() if record else ():
        # Before the step, which may take over the buffers of the state.
        found[name] = recorder.other(params_of(state), gradient(state))
    params, grads, state = train_fn(state)
    if record:
        recorder.add(step, params, grads, params_of(state), found)
    return state


def _compare(end: PyTree, reference: PyTree, check: Check, steps: int) -> float:
    """The distance of the two ends. Fails: `ReplayError` where it may not be."""
    if digest(end) == digest(reference):
        return 0.0
    apart = jax.tree.map(difference, end, reference)
    distance = float(global_norm(apart))
    size = float(global_norm(reference))
    if check == "allclose" and distance <= CLOSE * size:
        return distance
    raise ReplayError(
        f"the replay ends {distance:.6g} from the reference after {steps} steps (the "
        f"reference has the norm {size:.6g}); it is not the "
        "same path, and nothing measured on it counts. What a step reads must follow "
        "from its state alone: data order, random numbers, the number of devices, and "
        "the same programs"
        + ("; check='allclose' allows for rounding" if check == "bitwise" else ""),
        distance,
    )
