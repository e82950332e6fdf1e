"""Which leaves of the files are matrices, and how they are seen."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jopt.errors import ShapeError, did_you_mean
from jopt.matrix import MatrixSpec
from jopt.transforms._specs import find_spec

if TYPE_CHECKING:
    from jopt.weights._layout import NamedWeights

Views = Callable[[str, tuple[int, ...]], MatrixSpec | None]


class View(NamedTuple):
    """What a config says of some leaves; without axes they are no matrices.

    Attributes:
        match: regular expression, searched for in a path.
        reduction_axes, output_axes: as of `MatrixSpec`.
    """

    match: str
    reduction_axes: tuple[int, ...] = ()
    output_axes: tuple[int, ...] = ()

    def spec(self) -> MatrixSpec | None:
        """The view of a leaf that matches."""
        if not self.reduction_axes and not self.output_axes:
            return None
        return MatrixSpec(self.reduction_axes, self.output_axes)


def view_faults(tables: Sequence[Any]) -> Iterator[str]:
    """What is wrong with `matrix_specs` of a config."""
    for number, table in enumerate(tables):
        where = f"matrix_specs[{number}]"
        if not isinstance(table, Mapping) or not isinstance(table.get("match"), str):
            yield f"{where} is {table!r}; a dict with `match` is expected"
            continue
        for key in table.keys() - set(View._fields):
            yield f"{where}.{key} is unknown{did_you_mean(key, View._fields)}"
        try:
            re.compile(table["match"])
            view_from({k: x for k, x in table.items() if k in View._fields}).spec()
        except re.error as error:
            yield f"{where}.match is no regular expression: {error}"
        except (ShapeError, TypeError, ValueError) as error:
            yield f"{where}: {error}"


def view_from(table: Mapping[str, Any]) -> View:
    """A view from a dict.

    >>> view_from({"match": "q/kernel", "reduction_axes": [0], "output_axes": [1, 2]})
    View(match='q/kernel', reduction_axes=(0,), output_axes=(1, 2))
    """
    axes = {key: tuple(x) for key, x in table.items() if key != "match"}
    return View(table["match"], **axes)


def views_of(views: Sequence[View], base: NamedWeights, path: Path) -> Views:
    """The view of a leaf by path and shape.

    The first of `views` that matches decides; then what the rules of torch names say,
    or the model of the run that the base at `path` is from; then `find_spec`, for which
    a leaf of two axes is a matrix.
    """

    @functools.cache
    def declared() -> Mapping[str, MatrixSpec | None]:
        return base.specs() or _of_run(path)

    def view(name: str, shape: tuple[int, ...]) -> MatrixSpec | None:
        for entry in views:
            if re.search(entry.match, name):
                return entry.spec()
        return find_spec(name, shape, declared())

    return view


def _of_run(path: Path) -> dict[str, MatrixSpec | None]:
    """What the model of a run declares; nothing where `path` is of no run."""
    run = path
    if path.name == "checkpoints":
        run = path.parent
    elif path.parent.name == "checkpoints":
        run = path.parent.parent
    if not (run / "checkpoints").is_dir() or not (run / "config.json").is_file():
        return {}
    # Building a model takes seconds; only a base from a run needs it.
    from jopt.training._config import with_later_keys
    from jopt.training._plan import make_plan, resolve
    from jopt.training._run_folder import read_config

    plan = make_plan(resolve(with_later_keys(read_config(run))[0]))
    return dict(plan.model.matrix_specs)
