"""From the names in a config to a merge transform."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from jopt import merging
from jopt.errors import ConfigError, check_choice
from jopt.merging import METHODS, MergeTransform, chain

Specs = Callable[[str, tuple[int, ...]], Any]
# Merge transforms that a list of stages can name, beside the methods.
STAGES: Mapping[str, Callable[..., MergeTransform]] = {
    name: getattr(merging, name)
    for name in (
        *("trim", "dare", "drop_outliers", "rescale_norm"),
        *("elect_sign", "consensus", "multiply", "clip_norm"),
        *("disjoint_mean", "disjoint_sum", "disjoint_max"),
        *("sum", "mean", "weighted_sum"),
    )
}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A method with its arguments, or the stages of a chain.

    Attributes:
        method: a name of `jopt.merging.METHODS`.
        kwargs: its arguments.
        stages: (name, arguments); where there are some, `method` does not count.
    """

    method: str
    kwargs: Mapping[str, Any]
    stages: tuple[tuple[str, Mapping[str, Any]], ...] = ()

    @classmethod
    def of(cls, config: ConfigDict) -> Recipe:
        """What `method`, `kwargs` and `stages` of a config say."""
        stages = []
        for stage in config.stages:
            table = dict(stage)
            stages.append((table.pop("name", ""), table))
        return cls(config.method, config.kwargs.to_dict(), tuple(stages))

    @classmethod
    def faults(cls, config: ConfigDict) -> Iterator[str]:
        """What is wrong with those keys."""
        if not all(isinstance(stage, Mapping | ConfigDict) for stage in config.stages):
            yield f"stages is {config.stages!r}; dicts with `name` are expected"
            return
        recipe = cls.of(config)
        if recipe.stages and recipe.kwargs:
            yield "kwargs belong to a method; write them into the dicts of stages"
        try:
            transform = recipe.transform(lambda path, shape: None)
            if lacking := sorted(transform.needs - {"key"}):
                yield (
                    f"{recipe} needs {', '.join(lacking)}, which come from data and a "
                    "model; merge in Python by jopt.merging.merge(..., aux=)"
                )
        except ConfigError as error:
            yield f"{'stages' if recipe.stages else 'method'}: {error}"

    def transform(self, specs: Specs) -> MergeTransform:
        """The merge transform.

        Args:
            specs: (path, shape) -> the matrix view; used by what takes `matrix_specs`.
        """
        if not self.stages:
            check_choice("merge method", self.method, METHODS)
            return _call(self.method, METHODS[self.method].recipe, self.kwargs, specs)
        known = {**STAGES, **{name: method.recipe for name, method in METHODS.items()}}
        steps = []
        for name, arguments in self.stages:
            check_choice("stage", name, known)
            steps.append(_call(name, known[name], arguments, specs))
        return chain(*steps)

    def __str__(self) -> str:
        steps = self.stages or ((self.method, self.kwargs),)
        return " -> ".join(
            f"{name}({', '.join(f'{k}={v}' for k, v in arguments.items())})"
            for name, arguments in steps
        )


def _call(
    name: str,
    make: Callable[..., MergeTransform],
    arguments: Mapping[str, Any],
    specs: Specs,
) -> MergeTransform:
    taken = inspect.signature(make).parameters
    given = dict(arguments)
    if "matrix_specs" in taken:
        given.setdefault("matrix_specs", specs)
    try:
        return make(**given)
    except TypeError as error:
        raise ConfigError(f"{name}: {error}; it takes {', '.join(taken)}") from None
