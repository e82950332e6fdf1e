"""Arguments that many optimizers take and pass on, named once."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def takes_options_of(
    *targets: Callable[..., Any],
) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Makes the `**options` of a function the keyword-only arguments of `targets`.

    They appear in its signature, with their defaults, so that help, rules and
    `optax.inject_hyperparams` know them, and any other argument fails as it does in
    every call. The function hands them on with `options_of`. What it names itself is
    not added again.

    >>> def cut(*, depth=1, side="left"): ...
    >>> @takes_options_of(cut)
    ... def bake(time, *, side="top", **options):
    ...     return options_of(cut, options)
    >>> inspect.signature(bake)
    <Signature (time, *, side='top', depth=1)>
    >>> bake(3, depth=2)
    {'depth': 2}
    """

    def decorate(fn: Callable[P, T]) -> Callable[P, T]:
        own = [
            parameter
            for parameter in inspect.signature(fn).parameters.values()
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        return with_parameters(fn, [*own, *_keywords(targets)])

    return decorate


def with_parameters(
    fn: Callable[P, T], parameters: list[inspect.Parameter]
) -> Callable[P, T]:
    """`fn` with these parameters as its signature, the first of each name counting.

    >>> with_parameters(print, [])("spam")
    Traceback (most recent call last):
    TypeError: too many positional arguments
    """
    first: dict[str, inspect.Parameter] = {}
    for parameter in parameters:
        first.setdefault(parameter.name, parameter)
    signature = inspect.Signature(list(first.values()))

    @functools.wraps(fn)
    def called(*args: P.args, **kwargs: P.kwargs) -> T:
        signature.bind(*args, **kwargs)
        return fn(*args, **kwargs)

    called.__signature__ = signature  # type: ignore[attr-defined]
    return called


def _keywords(targets: tuple[Callable[..., Any], ...]) -> list[inspect.Parameter]:
    return [
        parameter
        for target in targets
        for parameter in inspect.signature(target).parameters.values()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
        and parameter.default is not inspect.Parameter.empty
    ]


def options_of(
    target: Callable[..., Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Those of the options that `target` takes by keyword, for a call of it.

    >>> options_of(sorted, {"reverse": True, "other": 1})
    {'reverse': True}
    """
    known = inspect.signature(target).parameters
    return {name: value for name, value in options.items() if name in known}
