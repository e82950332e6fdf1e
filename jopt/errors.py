"""The errors that jopt raises on purpose, and how a near miss is named.

Every message says what is wrong, where (a parameter path or a config key), what was
expected, what was found, and the next step.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Iterable
from typing import Any


class ConfigError(ValueError):
    """A config, a rule or an argument cannot be used as given."""


class ShapeError(ValueError):
    """A leaf has a shape or dtype that a transform cannot handle."""


class DataError(RuntimeError):
    """A data source is missing, too short or damaged."""


class CheckpointError(RuntimeError):
    """A checkpoint cannot be read or written."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint is not what was saved."""


class ReplayError(RuntimeError):
    """A run done again does not end where it ended.

    Attributes:
        distance: between the two ends.
    """

    def __init__(self, message: str, distance: float) -> None:
        super().__init__(message)
        self.distance = distance


class WorkdirInUseError(RuntimeError):
    """Another process runs in this folder."""


class LostProcessError(RuntimeError):
    """Other processes of this job did not come, or have gone."""


class ReportError(RuntimeError):
    """A folder cannot be shown as a run, or a page cannot be written."""


class JoptWarning(UserWarning):
    """Something runs as asked but probably not as meant."""


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate most similar to `name`, or None when nothing is close.

    >>> nearest("optim.learnig_rate", ["optim.learning_rate", "seed"])
    'optim.learning_rate'
    """
    matches = difflib.get_close_matches(name, list(candidates), n=1, cutoff=0.6)
    return matches[0] if matches else None


def did_you_mean(name: object, candidates: Iterable[object]) -> str:
    """The nearest candidate as the tail of a message; empty when nothing is close.

    >>> did_you_mean("cosin", ["cosine", "constant"])
    "; did you mean 'cosine'?"
    """
    close = nearest(str(name), [str(candidate) for candidate in candidates])
    return "" if close is None else f"; did you mean {close!r}?"


def import_name(what: str, name: str) -> Any:
    """What a user's `package.module:name` leads to, or `ConfigError`.

    >>> import_name("loss", "math:sqrt")(4)
    2.0
    """
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"{what} {name!r} cannot be imported: {error}; expected "
            "'package.module:function' with the module on the import path"
        ) from error


def check_choice(what: str, value: object, known: Iterable[object]) -> None:
    """Fails with `ConfigError` when `value` is not among `known`.

    >>> check_choice("method", "newton", ["newton_schulz", "auto"])
    Traceback (most recent call last):
        ...
    jopt.errors.ConfigError: unknown method 'newton'; did you mean 'newton_schulz'? \
Known: newton_schulz, auto
    """
    known = list(known)
    if value not in known:
        listed = ", ".join(str(choice) for choice in known)
        hint = did_you_mean(value, known) or "."
        raise ConfigError(f"unknown {what} {value!r}{hint} Known: {listed}")


def print_error(error: Exception) -> None:
    """An error as a user sees it on stderr, its further lines indented."""
    text = "\n  ".join(str(error).splitlines())
    print(f"{type(error).__name__}: {text}", file=sys.stderr)
