"""Steps in the geometry that each matrix has been given."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jopt.errors import ConfigError, ShapeError, check_choice
from jopt.matrix import MatrixSpec
from jopt.transforms._choosing import GEOMETRIES, SPECTRAL, GeometryName
from jopt.transforms._dispatch import Spread
from jopt.transforms._polar import PolarMap
from jopt.transforms._shape import ShapeMap
from jopt.transforms._sign import sign_tree
from jopt.transforms._singles import Singles
from jopt.tree import PyTree, map_named, named_leaves

SwitchMode = Literal["where", "cond", "host"]
SpectralScale = Literal["unit_rms", "match_rms"]
# A name for all matrices, or path -> a name or an array of them.
Choices = str | Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class GeometrySteps:
    """Directions to steps of one RMS in several geometries, or another for signs.

    sign: sign_rms sign(C); spectral: the polar factor P of C, scaled; euclidean: rms
    sqrt(M N) C / ||C||_F.

    Attributes:
        geometries: that are offered.
        polar: of the spectral steps.
        polar_scaled: a polar factor to its step.
        scaled: to the RMS, mode `unit_rms`.
        sign_rms: of sign steps.
    """

    geometries: tuple[GeometryName, ...]
    polar: PolarMap
    polar_scaled: ShapeMap
    scaled: ShapeMap
    sign_rms: jax.typing.ArrayLike

    def step(self, name: GeometryName, tree: PyTree) -> PyTree:
        """The step of one geometry for all matrices of a tree."""
        if name == "sign":
            return jax.tree.map(lambda x: self.sign_rms * x, sign_tree(tree))
        if name == "spectral":
            return self.polar_scaled(self.polar(tree))
        return self.scaled(tree)

    def among(self, specs: Mapping[str, MatrixSpec]) -> GeometrySteps:
        """The same for a tree {path: leaf} of some leaves."""
        views = self.polar.views.among(specs)
        return dataclasses.replace(
            self,
            polar=dataclasses.replace(self.polar, views=views),
            polar_scaled=dataclasses.replace(self.polar_scaled, views=views),
            scaled=dataclasses.replace(self.scaled, views=views),
        )

    def where(self, direction: PyTree, choice: PyTree) -> PyTree:
        """All geometries for all matrices, and of each the chosen one."""
        steps: dict[str, PyTree] = {
            name: self.step(name, direction) for name in self.geometries
        }
        return self._select(steps, choice)

    def cond(self, direction: PyTree, choice: PyTree) -> PyTree:
        """Polar factors only of leaves in which some matrix is spectral.

        One `jax.lax.cond` for each leaf; in `shard_map` all devices take the same side.
        """
        layout = self.polar.views.layout
        bound = layout is not None and layout.is_bound()
        specs = self.polar.views.specs(direction)
        chosen = named_leaves(choice)

        def spectral(path: str, leaf: jax.Array) -> jax.Array:
            alone = self.among({path: specs[path]})
            wanted = jnp.any(chosen[path] == SPECTRAL)
            if bound:
                assert layout is not None
                names = tuple(n for n, size in layout.mesh.shape.items() if size > 1)
                wanted = jax.lax.pmax(wanted.astype(jnp.int32), names) > 0
            return jax.lax.cond(
                wanted,
                lambda x: alone.step("spectral", {path: x})[path],
                jnp.zeros_like,
                leaf,
            )

        steps: dict[str, PyTree] = {
            name: map_named(spectral, direction)
            if name == "spectral"
            else self.step(name, direction)
            for name in self.geometries
        }
        return self._select(steps, choice)

    def static(self, direction: PyTree, choice: Mapping[str, np.ndarray]) -> PyTree:
        """A program for these choices alone, path -> places in `GEOMETRIES`."""
        specs, leaves = self.polar.views.specs(direction), named_leaves(direction)
        steps: dict[str, dict[str, jax.Array]] = {}
        for code, name in enumerate(GEOMETRIES):
            some = {p: x for p, x in leaves.items() if np.any(choice[p] == code)}
            if some:
                views = self.among({path: specs[path] for path in some})
                steps[name] = views.step(name, some)

        def one(path: str, leaf: jax.Array) -> jax.Array:
            del leaf
            own = {name: {path: x[path]} for name, x in steps.items() if path in x}
            alone = self.among({path: specs[path]})
            return alone._select(own, {path: jnp.asarray(choice[path])})[path]

        return map_named(one, direction)

    def _select(self, steps: Mapping[str, PyTree], choice: PyTree) -> PyTree:
        codes = [GEOMETRIES.index(name) for name in steps]
        trees = list(steps.values())
        if len(trees) == 1:
            return trees[0]
        views = self.polar.views
        return views.map(partial(_chosen, codes), *trees, _like(trees[0], choice))


def _like(tree: PyTree, choice: PyTree) -> PyTree:
    """The leaves of `choice` in the structure of `tree`, which may lack some."""
    chosen = named_leaves(choice)
    return map_named(lambda path, _: chosen[path], tree)


def _chosen(
    codes: Sequence[int], spread: Spread, first: jax.Array, *rest: jax.Array
) -> jax.Array:
    del spread
    *others, choice_S11 = rest
    for code, step in zip(codes[1:], others, strict=True):
        first = jnp.where(choice_S11 == code, step, first)
    return first


def read_choices_argument(
    what: str,
    choices: Choices,
    singles: Singles,
    geometries: Sequence[GeometryName],
) -> dict[str, np.ndarray]:
    """path -> place in `GEOMETRIES` of each matrix, from names.

    Fails: `ConfigError` for a name that is not offered, and for a parameter that has
    none; `ShapeError` for an array of another shape than the matrices.

    >>> choices = {"w": [["spectral"]]}
    >>> read_choices_argument("initial", choices, Singles({"w": (1, 1)}), GEOMETRIES)
    {'w': array([[1]], dtype=int32)}
    """
    table = {} if isinstance(choices, str) else dict(choices)
    found = {}
    for path, shape in singles.shapes.items():
        if not isinstance(choices, str) and path not in table:
            raise ConfigError(
                f"{what} has no geometry for {path!r}; it knows "
                f"{', '.join(sorted(table)) or 'nothing'}"
            )
        names = np.asarray(choices if isinstance(choices, str) else table[path])
        for name in np.unique(names).tolist():
            check_choice(f"geometry in {what} for {path!r}", name, geometries)
        if names.ndim and names.shape != shape:
            raise ShapeError(
                f"{what}[{path!r}] has shape {names.shape}; expected one name, or "
                f"{shape}, one for each matrix"
            )
        codes = np.vectorize(GEOMETRIES.index, otypes=[np.int32])(names)
        found[path] = np.broadcast_to(codes, shape)
    return found


def select_steps(
    steps: GeometrySteps, mode: SwitchMode
) -> Callable[[PyTree, PyTree], PyTree]:
    """(direction, choice) -> steps, where the choice is on the device."""
    return steps.cond if mode == "cond" else steps.where
