"""Coefficient lists of the odd quintic iterations, and what they do to one number.

A stage (a, b, c) sends a singular value s to a s + b s^3 + c s^5 and leaves the
singular vectors alone, so a list of stages is fully described by a scalar function,
which `polynomial_value` computes in float64. Everything here is host arithmetic:
coefficients are static and never traced.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

import numpy as np

from jopt.errors import ConfigError, check_choice

Stages: TypeAlias = tuple[tuple[float, float, float], ...]
Coefficients: TypeAlias = str | Sequence | Callable[[int], Sequence]

DEFAULT_STEPS = 5


@dataclasses.dataclass(frozen=True)
class Preset:
    """A named list of stages.

    Attributes:
        stages: the list; a shorter run uses its first stages.
        steps: how many stages a run has when nobody says.
        beyond: what a longer run does: `cycle` through the list, `repeat` its last
            stage, or `refuse`, which also refuses shorter runs.
        margin: the input is divided by this times its norm, so that rounding cannot
            push a singular value past the point where the first stages blow up.
    """

    stages: Stages
    steps: int
    beyond: Literal["cycle", "repeat", "refuse"]
    margin: float = 1.0


def safer(stages: Stages, safety: float) -> Stages:
    """The stages of p(s / safety): each contracts its input a little more.

    >>> safer(((2.0, 8.0, 32.0),), 2.0)
    ((1.0, 1.0, 1.0),)
    """
    return tuple((a / safety, b / safety**3, c / safety**5) for a, b, c in stages)


JORDAN: Stages = ((3.4445, -4.7750, 2.0315),)
YOU5: Stages = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)
POLAR_EXPRESS: Stages = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
)
CLASSICAL: Stages = ((1.875, -1.25, 0.375),)
POLAR_EXPRESS_FAST5: Stages = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)

PRESETS: dict[str, Preset] = {
    "jordan": Preset(JORDAN, steps=5, beyond="cycle"),
    "you5": Preset(YOU5, steps=5, beyond="cycle"),
    "polar_express": Preset(
        safer(POLAR_EXPRESS, 1.01) + CLASSICAL, steps=8, beyond="repeat", margin=1.01
    ),
    "polar_express_fast5": Preset(
        POLAR_EXPRESS_FAST5, steps=5, beyond="refuse", margin=1.02
    ),
}


def resolve_coefficients(
    coeffs: Coefficients = "auto", steps: int | None = None
) -> tuple[Stages, float]:
    """The stages to run and the margin of the normalisation.

    Args:
        coeffs: `auto`, a preset's name, one (a, b, c) to repeat, a sequence of them to
            run in order, or a function from the number of steps to such a sequence.
            `auto` is `you5` for up to 5 steps and `polar_express` beyond. A sequence is
            used as given, without safety or margin.
        steps: number of stages; None is the list's own number, and 5 for one (a, b, c)
            or a function.

    >>> stages, margin = resolve_coefficients("polar_express", 2)
    >>> len(stages), margin
    (2, 1.01)
    """
    _check_steps(steps)
    if isinstance(coeffs, str):
        return _from_preset(coeffs, steps)
    if callable(coeffs):
        steps = DEFAULT_STEPS if steps is None else steps
        return _from_sequence(coeffs(steps), steps), 1.0
    return _from_sequence(coeffs, steps), 1.0


def _check_steps(steps: int | None) -> None:
    if steps is None or (isinstance(steps, int | np.integer) and steps >= 0):
        return
    raise ConfigError(
        f"steps must be a Python integer >= 0, not {steps!r}: it decides which program "
        "is compiled. Under optax.inject_hyperparams leave it unset or name it in "
        'static_args=("steps",)'
    )


def _from_preset(name: str, steps: int | None) -> tuple[Stages, float]:
    if name == "auto":
        name = "you5" if (steps or 0) <= DEFAULT_STEPS else "polar_express"
    check_choice("coefficient list", name, ["auto", *PRESETS])
    preset = PRESETS[name]
    count = preset.steps if steps is None else steps
    stages = preset.stages
    if preset.beyond == "refuse" and count != len(stages):
        raise ConfigError(
            f"{name!r} is designed for exactly {len(stages)} steps, not {count}; leave "
            "steps unset or use 'polar_express'"
        )
    if preset.beyond == "cycle":
        stages = tuple(stages[i % len(stages)] for i in range(count))
    else:
        stages = tuple(stages[min(i, len(stages) - 1)] for i in range(count))
    return stages, preset.margin


def _from_sequence(coeffs: Sequence, steps: int | None) -> Stages:
    try:
        table = np.asarray(coeffs, dtype=np.float64)
    except Exception as error:
        raise ConfigError(
            f"coeffs must be static numbers of shape (steps, 3), not {coeffs!r}"
        ) from error
    if table.shape == (3,):
        table = np.tile(table, (DEFAULT_STEPS if steps is None else steps, 1))
    if table.ndim != 2 or table.shape[1] != 3:
        raise ConfigError(
            f"coeffs has shape {table.shape}; expected (3,) or (steps, 3), one row "
            "(a, b, c) for each stage"
        )
    if steps is not None and steps > len(table):
        raise ConfigError(
            f"coeffs has {len(table)} stages and {steps} steps were asked for; a list "
            "says nothing about what follows it, so extend it or lower steps"
        )
    rows = table[:steps].tolist()
    return tuple((a, b, c) for a, b, c in rows)


def polynomial_value(
    coeffs: Coefficients, s: float | np.ndarray, *, steps: int | None = None
) -> np.ndarray:
    """What the stages do to a singular value `s` of the normalised input, in float64.

    The margin is not applied: it belongs to the normalisation.

    >>> float(polynomial_value("jordan", 1.0).round(6))
    0.696436
    """
    stages, _ = resolve_coefficients(coeffs, steps)
    value = np.asarray(s, dtype=np.float64)
    for a, b, c in stages:
        square = value * value
        value = value * (a + square * (b + square * c))
    return value
