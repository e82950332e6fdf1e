"""Coefficient lists of the odd quintic iterations, and what they do to one number.

A stage (a, b, c) sends a singular value s to a s + b s^3 + c s^5 and leaves the
singular vectors alone, so a list of stages is fully described by a scalar function,
which `polynomial_value` computes in float64. Everything here is host arithmetic:
coefficients are static and never traced.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple, TypeAlias, TypeVar

import numpy as np

from jopt.errors import ConfigError, check_choice

Stage: TypeAlias = tuple[float, float, float]
Stages: TypeAlias = tuple[Stage, ...]
Coefficients: TypeAlias = str | Sequence | Callable[[int], Sequence]
Number = TypeVar("Number", float, np.ndarray)

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
        normalization: what the list is made for, and what `auto` means with it.
        only: no other normalisation fits the list.
        half: whether the list holds when values are rounded to half precision between
            its stages.
        half_restarts: restarts of the Gram iteration with which the list was measured
            to hold in bfloat16; None where it was not, or does not.
    """

    stages: Stages
    steps: int
    beyond: Literal["cycle", "repeat", "refuse"]
    margin: float = 1.0
    normalization: str = "frobenius"
    only: bool = False
    half: bool = True
    half_restarts: tuple[int, ...] | None = None


class Schedule(NamedTuple):
    """What an iteration runs.

    Attributes:
        stages: the (a, b, c) in order.
        margin: the input is divided by this times its norm.
        normalization, only, half, half_restarts: as in `Preset`.
    """

    stages: Stages
    margin: float = 1.0
    normalization: str = "frobenius"
    only: bool = False
    half: bool = True
    half_restarts: tuple[int, ...] | None = None


def safer(stage: Stage, safety: float) -> Stage:
    """The stage p(s / safety), which contracts its input a little more.

    >>> safer((2.0, 8.0, 32.0), 2.0)
    (1.0, 1.0, 1.0)
    """
    a, b, c = stage
    return a / safety, b / safety**3, c / safety**5


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
POLAR_EXPRESS_FAST5: Stages = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
# polar_express_coefficients(8, cushion=0); a test compares them.
CANS: Stages = (
    (8.470328803848073, -25.108074706661885, 18.62927559911802),
    (4.1828341832939415, -3.108701109889241, 0.5806066813500491),
    (3.9618572789615976, -2.954063746359376, 0.5629761179538959),
    (3.28658621702796, -2.464720134531282, 0.5073576938614548),
    (2.273749994434039, -1.64466036790807, 0.41619092749788655),
    (1.888716197351826, -1.2651572253385939, 0.3765189255574871),
    (1.8750008858359646, -1.2500009842448887, 0.37500009840925475),
    (1.8749999990979316, -1.2499999981958632, 0.3749999990979316),
)
# polar_express_coefficients(steps, lower=..., cushion=0, safety=1.01), with lower 0.015
# for three stages and 0.005 for four; a test compares.
POLAR_EXPRESS_FAST3: Stages = (
    (7.819460286287474, -22.176989636404183, 16.01595720972833),
    (3.3797076697847444, -2.483748325884334, 0.4928992458625433),
    (2.3982729049954505, -1.7552000776779326, 0.4281780275656384),
)
POLAR_EXPRESS_FAST4: Stages = (
    (8.216538110334183, -23.71200081162463, 17.21230371808287),
    (3.879551334921364, -2.837366064971095, 0.5323214238293997),
    (3.15808245832504, -2.3214883563998336, 0.47489000736806863),
    (2.2073545882049928, -1.5838590782156285, 0.4096640125069133),
)
# The same for sums of singular values: lower 0.002.
POLAR_EXPRESS_SUMS5: Stages = (
    (8.343354260167128, -24.202766028217855, 17.594972437222204),
    (4.072318775549996, -2.970105748287389, 0.5471541676223038),
    (3.6869144545622774, -2.7028418337048947, 0.5173042372104417),
    (2.7783811779722285, -2.0327040416663613, 0.44306330285537554),
    (2.0067311136246073, -1.389677649880449, 0.3892191013721427),
)
AOL4: Stages = (
    (4.0098, -7.0585, 2.4635),
    (3.4585, -5.5479, 2.5959),
    (2.7573, -3.2939, 1.4254),
    (2.7215, -3.0494, 1.3169),
)
CUBIC5: Stages = (
    (3.3656576, -3.3420992, 0.0),
    (2.5744352, -1.4957376, 0.0),
    (2.5368962, -1.4312570, 0.0),
    (2.4418906, -1.2764040, 0.0),
    (2.2230472, -0.9630650, 0.0),
)
CLASSICAL3: Stage = (1.5, -0.5, 0.0)
CLASSICAL5: Stage = (1.875, -1.25, 0.375)

# Rounding may leave a value slightly above 1. `jordan` and `you5` are bounded up to
# 1.26 and 1.32, the Polar Express lists up to their margin. `cans` has nothing to
# spare: rounded to bfloat16 between its stages, 1 ends at 76 after five of them.
PRESETS: dict[str, Preset] = {
    "jordan": Preset(JORDAN, steps=5, beyond="cycle"),
    "you5": Preset(YOU5, steps=5, beyond="cycle"),
    "polar_express": Preset(
        (*(safer(stage, 1.01) for stage in POLAR_EXPRESS), CLASSICAL5),
        steps=8,
        beyond="repeat",
        margin=1.01,
    ),
    "polar_express_fast3": Preset(
        POLAR_EXPRESS_FAST3,
        steps=3,
        beyond="refuse",
        margin=1.01,
        normalization="schatten16",
        half_restarts=(1,),
    ),
    "polar_express_fast4": Preset(
        POLAR_EXPRESS_FAST4,
        steps=4,
        beyond="refuse",
        margin=1.01,
        normalization="schatten8",
        # With a restart at 2 alone, a dominant direction ten times the others came out
        # with a singular value of up to 2.6, one matrix in ten.
        half_restarts=(1, 2),
    ),
    "polar_express_fast5": Preset(
        POLAR_EXPRESS_FAST5, steps=5, beyond="refuse", margin=1.02
    ),
    # Errors on both sides of 1 cancel in a sum over singular values. Without the margin
    # a matrix of rank 1 explodes in bfloat16, whose rounding takes it above 1.
    "polar_express_sums5": Preset(
        POLAR_EXPRESS_SUMS5,
        steps=5,
        beyond="refuse",
        margin=1.01,
        half_restarts=(1, 2),
    ),
    "cans": Preset(CANS, steps=5, beyond="repeat", half=False),
    "aol4": Preset(AOL4, steps=4, beyond="refuse", normalization="aol", only=True),
    "hybrid10": Preset(JORDAN * 8 + ((2.0, -1.5, 0.5),) * 2, steps=10, beyond="repeat"),
    "cubic5": Preset(CUBIC5, steps=5, beyond="refuse"),
    "classical3": Preset((CLASSICAL3,), steps=5, beyond="repeat"),
    "classical5": Preset((CLASSICAL5,), steps=5, beyond="repeat"),
}


def resolve_coefficients(
    coeffs: Coefficients = "auto", steps: int | None = None
) -> Schedule:
    """The stages to run, and how the input is to be normalised for them.

    Args:
        coeffs: `auto`, a preset's name, one (a, b, c) to repeat, a sequence of them to
            run in order, or a function from the number of steps to such a sequence.
            `auto` is `polar_express_fast4`, for any other number of steps than 4 `you5`
            up to 5 and `polar_express` beyond. A sequence is used as given, without
            safety or margin. Fewer steps than a preset has are
            its first ones; for more, `jordan` and `you5` cycle, `polar_express`,
            `cans`, `hybrid10` and the classical ones repeat their last stage, and the
            others, each designed as a whole, take their own number only.
        steps: number of stages; None is the list's own number, and 5 for one (a, b, c)
            or a function.

    Fails: `ConfigError` for an unknown name, a number of steps the list does not have,
    or traced values.

    References: Jordan et al. 2024, Muon (blog and code): `jordan`; Ahn et al. 2025,
    Dion, arXiv 2504.05295 (code): `you5`; Amsel et al. 2025, arXiv 2505.16932:
    `polar_express`; Grishina et al. 2025, arXiv 2506.10935: `cans`; Boissin et al.
    2025, Turbo-Muon, arXiv 2512.04632: `aol4`; DeepSeek-V4 report 2026: `hybrid10`;
    arXiv 2606.00371 (2026): `cubic5`. `polar_express_fast3` and `polar_express_fast4`
    are ours, by the generator of Amsel et al.

    >>> schedule = resolve_coefficients("polar_express", 2)
    >>> len(schedule.stages), schedule.margin, schedule.normalization
    (2, 1.01, 'frobenius')
    """
    _check_steps(steps)
    if isinstance(coeffs, str):
        return _from_preset(coeffs, steps)
    if callable(coeffs):
        steps = DEFAULT_STEPS if steps is None else steps
        return Schedule(_from_sequence(coeffs(steps), steps))
    return Schedule(_from_sequence(coeffs, steps))


def _check_steps(steps: int | None) -> None:
    if steps is None or (isinstance(steps, int | np.integer) and steps >= 0):
        return
    raise ConfigError(
        f"steps must be a Python integer >= 0, not {steps!r}: it decides which program "
        "is compiled. Under optax.inject_hyperparams leave it unset or name it in "
        'static_args=("steps",)'
    )


def _from_preset(name: str, steps: int | None) -> Schedule:
    if name == "auto":
        name = _automatic(steps)
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
    return Schedule(
        stages,
        preset.margin,
        preset.normalization,
        preset.only,
        preset.half,
        preset.half_restarts,
    )


def _automatic(steps: int | None) -> str:
    if steps is None or steps == PRESETS["polar_express_fast4"].steps:
        return "polar_express_fast4"
    return "you5" if steps <= DEFAULT_STEPS else "polar_express"


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
    stages = resolve_coefficients(coeffs, steps).stages
    return composed(stages, np.asarray(s, dtype=np.float64))


def composed(stages: Iterable[Stage], value: Number) -> Number:
    """The stages applied to `value` one after the other.

    >>> composed([(1.5, -0.5, 0.0), (2.0, 0.0, 0.0)], 0.5)
    1.375
    """
    for a, b, c in stages:
        square = value * value
        value = value * (a + square * (b + square * c))
    return value
