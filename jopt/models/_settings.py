"""What the settings of all models share: reading, messages, compute types."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

import jax.numpy as jnp

from jopt.errors import ConfigError, nearest

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
T = TypeVar("T")


def read_settings(kind: type[T], config: Any) -> T:
    """An instance of the dataclass `kind`, from a mapping or anything with attributes.

    A mapping (a dict or a ConfigDict) with a key that is no setting is refused. What a
    config leaves out keeps its default.
    """
    fields = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    if hasattr(config, "keys"):
        given: Mapping[str, Any] = {key: config[key] for key in config.keys()}  # noqa: SIM118
        unknown = [key for key in given if key not in fields]
        if unknown:
            raise ConfigError("\n".join(_unknown_key(key, fields) for key in unknown))
    else:
        given = {
            name: getattr(config, name) for name in fields if hasattr(config, name)
        }
    return kind(**given)


def value_fault(config: Any, key: str, expected: str) -> str:
    """The message for a setting that cannot work."""
    return f"model.{key}: expected {expected}, found {getattr(config, key)!r}"


def whole_faults(config: Any, *keys: str, least: int = 1) -> Iterator[str]:
    """Messages for those settings that are no whole number of at least `least`."""
    for key in keys:
        value = getattr(config, key)
        if not is_number(value, int) or value < least:
            yield value_fault(config, key, f"a whole number of at least {least}")


def rate_faults(config: Any, key: str) -> Iterator[str]:
    """A message where a setting is no rate."""
    value = getattr(config, key)
    if not is_number(value, (int, float)) or not 0 <= value < 1:
        yield value_fault(config, key, "a rate in [0, 1)")


def raise_faults(faults: Iterable[str]) -> None:
    """Fails with a `ConfigError` of all messages, if there is one."""
    if found := list(faults):
        raise ConfigError("\n".join(found))


def is_number(value: Any, kind: type | tuple[type, ...]) -> bool:
    """Whether a value is a number of this kind; True and False are none.

    >>> is_number(2, int), is_number(True, int), is_number(2.0, int)
    (True, False, False)
    """
    return isinstance(value, kind) and not isinstance(value, bool)


def _unknown_key(key: str, fields: list[str]) -> str:
    close = nearest(key, fields)
    hint = f"did you mean model.{close}?" if close else f"known: {', '.join(fields)}"
    return f"unknown key model.{key}\n  {hint}"
