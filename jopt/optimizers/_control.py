"""What an optimizer does about the size of its weights, besides plain decay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import optax

from jopt.errors import ConfigError, check_choice


class Control(NamedTuple):
    """Weight-side control of an optimizer; a mapping with these keys says the same.

    Attributes:
        cautious: weight decay as in `cautious_weight_decay`.
        floor: ratio of `update_floor`; None for no floor.
        floor_per_output: the floor is one of each output neuron.
        hyperball: steps as in `hyperball`, in place of weight decay and brake.
        brake: part of its growth that `radial_brake` leaves a weight; None for no
            brake.
        anchor: weight of `decay_to_anchor`, which pulls to the first parameters as
            weight decay pulls to zero; None for no pull.

    `cautious`, `floor_per_output` and `hyperball` are static; numbers may be traced.
    """

    cautious: bool = False
    floor: jax.typing.ArrayLike | None = None
    floor_per_output: bool = False
    hyperball: bool = False
    brake: jax.typing.ArrayLike | None = None
    anchor: jax.typing.ArrayLike | None = None


ControlLike: TypeAlias = Control | Mapping[str, Any] | None


def read_control(
    control: ControlLike, weight_decay: optax.ScalarOrSchedule = 0.0
) -> Control:
    """The control that an argument describes, None and keys of None for nothing.

    Fails: `ConfigError` for a key that does not exist, a value that cannot be, or
    parts that exclude each other.

    >>> read_control({"floor": 0.35}).floor
    0.35
    """
    if control is None:
        return Control()
    if not isinstance(control, Control):
        if not hasattr(control, "items"):
            raise ConfigError(
                f"control is {control!r}; expected a mapping with some of the keys "
                f"{', '.join(Control._fields)}"
            )
        given = {key: value for key, value in control.items() if value is not None}
        for key in given:
            check_choice("control", key, Control._fields)
        control = Control(**given)
    faults = [*_wrong_values(control), *_conflicts(control, weight_decay)]
    if faults:
        raise ConfigError("; ".join(faults))
    return control


def _wrong_values(control: Control) -> list[str]:
    faults = []
    for key in ("cautious", "floor_per_output", "hyperball"):
        value = getattr(control, key)
        if not isinstance(value, bool):
            faults.append(f"control.{key} is {value!r}; expected True or False")
    for key in ("floor", "brake", "anchor"):
        value = getattr(control, key)
        wrong = isinstance(value, bool | str) or callable(value)
        if wrong or (_is_number(value) and not 0 <= value < float("inf")):
            faults.append(f"control.{key} is {value!r}; expected a number, 0 or more")
    return faults


def _conflicts(control: Control, weight_decay: optax.ScalarOrSchedule) -> list[str]:
    faults = []
    if control.hyperball:
        decays = callable(weight_decay) or (_is_number(weight_decay) and weight_decay)
        others = {
            f"weight_decay = {weight_decay!r}": decays,
            f"control.brake = {control.brake!r}": control.brake is not None,
            f"control.anchor = {control.anchor!r}": control.anchor is not None,
            "control.cautious = True": control.cautious,
        }
        faults += [
            f"control.hyperball keeps the norm of weights, so {other} has no place "
            "beside it; remove one of them"
            for other, is_set in others.items()
            if is_set
        ]
    if control.floor_per_output and control.floor is None:
        faults.append("control.floor_per_output needs control.floor")
    return faults


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)
