"""Merging files: plan, merge leaf by leaf, write."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jopt.errors import import_name
from jopt.merging import apply_task_vector, search_scale
from jopt.merging._transform import weighted
from jopt.weights._figures import Figures
from jopt.weights._layout import STATE, Piece, same
from jopt.weights._reducers import Reducer, Reducing, Say, context_of, reducing
from jopt.weights._settings import Settings
from jopt.weights._sources import Sources, opened
from jopt.weights._views import views_of
from jopt.weights._weights import Leaf, fingerprint, nested
from jopt.weights._write import new_weights


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a merge of files will do, known from their headers.

    Attributes:
        sources: the files.
        reducing: how the method is carried out.
        pieces: of the file that is written.
        leaves: that it will hold.
    """

    sources: Sources
    reducing: Reducing
    pieces: tuple[Piece, ...]
    leaves: Mapping[str, Leaf]


@dataclasses.dataclass(frozen=True)
class Report:
    """What a merge found and wrote.

    Attributes:
        names: of the models, T.
        norms: ||tau_t||, T.
        cosines: of all pairs of task vectors, T x T.
        sparsity: the part of each task vector that is zero, T.
        merged_norm: of the merged vector, before its scale.
        merged_sparsity: the part of it that is zero.
        scale: lambda.
        findings: what is wrong with the task vectors, in words.
        table: columns `scale` and `score` of a search, empty without one.
        metadata: what the file says of its origin.
    """

    names: tuple[str, ...]
    norms: list[float]
    cosines: list[list[float]]
    sparsity: list[float]
    merged_norm: float
    merged_sparsity: float
    findings: tuple[str, ...]
    scale: float
    table: Mapping[str, list]
    metadata: Mapping[str, str]


@contextlib.contextmanager
def planned(settings: Settings) -> Iterator[Plan]:
    """Opens the files and makes the plan; closes them in the end.

    Fails: `ConfigError` for files that do not fit each other or the settings.

    >>> import tempfile
    >>> from safetensors.numpy import save_file
    >>> from jopt.weights import default_merge, settings_from
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name, value in (("base", 0.0), ("one", 1.0)):
    ...         save_file({"w": np.full(2, value)}, f"{folder}/{name}.safetensors")
    ...     config = default_merge()
    ...     config.base, config.out = f"{folder}/base.safetensors", f"{folder}/out"
    ...     config.models = (f"{folder}/one.safetensors",)
    ...     with planned(settings_from(config)) as plan:
    ...         plan.sources.merged, plan.reducing.how
    (('w',), 'leaf by leaf')
    """
    with opened(settings) as sources:
        views = views_of(settings.views, sources.base, settings.base)
        transform = settings.recipe.transform(views)
        wide = max((sources.wide(x) for x in sources.merged), key=lambda x: x.itemsize)
        pieces = _pieces(settings, sources)
        yield Plan(
            sources,
            reducing(settings.recipe, transform, wide),
            pieces,
            {piece.source: _leaf(settings, sources, piece) for piece in pieces},
        )


def merge_files(settings: Settings, plan: Plan, say: Say) -> Report:
    """Merges, writes `settings.out`, and returns what was seen on the way.

    Memory: one leaf of the base and of each model at a time, a few times, where the
    method works leaf by leaf (`Plan.reducing`); else all of them. A search keeps the
    base and the merged vector; an Orbax folder is in memory once before it is written.

    Args:
        say: takes lines of progress.

    >>> import tempfile
    >>> from safetensors.numpy import load_file, save_file
    >>> from jopt.weights import default_merge, settings_from
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name, value in (("base", 0.0), ("one", 1.0)):
    ...         save_file({"w": np.full(2, value)}, f"{folder}/{name}.safetensors")
    ...     config = default_merge()
    ...     config.base = f"{folder}/base.safetensors"
    ...     config.models = (f"{folder}/one.safetensors",)
    ...     config.scale, config.out = 0.5, f"{folder}/out.safetensors"
    ...     settings = settings_from(config)
    ...     with planned(settings) as plan:
    ...         report = merge_files(settings, plan, lambda text: None)
    ...     load_file(config.out)["w"].tolist(), report.names
    ([0.5, 0.5], ('one',))
    """
    sources = plan.sources
    x64 = jax.enable_x64(True) if sources.needs_x64() else contextlib.nullcontext()
    with x64:
        merger = _Merger(settings, plan, say)
        table: Mapping[str, list] = {}
        if (scale := settings.scale) is None:
            scale, table = merger.search()
        metadata = _metadata(settings, sources, scale)
        with new_weights(
            settings.out, plan.leaves, metadata, shard_bytes=settings.shard_bytes
        ) as writer:
            for piece in plan.pieces:
                writer.write(piece.source, merger.tensor(piece, scale))
    figures = merger.figures
    names = tuple(task.name for task in settings.tasks)
    return Report(
        names,
        figures.norms,
        figures.cosines,
        figures.sparsity,
        figures.merged_norm,
        figures.merged_sparsity,
        figures.findings(names),
        scale,
        table,
        metadata,
    )


class _Merger:
    """Gives the tensors of the merged file one by one."""

    def __init__(self, settings: Settings, plan: Plan, say: Say) -> None:
        self._settings = settings
        self._plan = plan
        self._sources = plan.sources
        self._say = say
        self._merged = frozenset(self._sources.merged)
        self._found: dict[str, np.ndarray] = {}
        self._done = 0
        self.figures = Figures(len(settings.tasks))
        self._context = context_of(self._sources, settings.seed)
        self._reduce: Reducer = plan.reducing.make(self._sources, self._context, say)

    def search(self) -> tuple[float, dict[str, list]]:
        """The best scale and the table; merged vectors are kept for `tensor`."""
        evaluate = import_name("search.evaluate", self._settings.evaluate)
        base = {}
        for leaf in self._sources.merged:
            base[leaf], self._found[leaf] = self._delta(leaf)
        fixed = {
            leaf: self._unmerged(leaf)
            for leaf in self._sources.base.leaves
            if leaf not in self._merged
        }
        params = {k: x for k, x in fixed.items() if not k.startswith(STATE)}
        state = {
            k.removeprefix(STATE): x for k, x in fixed.items() if k.startswith(STATE)
        }

        def merged(scale: Any) -> dict[str, Any]:
            return apply_task_vector(base, self._found, scale)

        def score(leaves: dict[str, Any]) -> Any:
            return evaluate(nested({**params, **leaves}), nested(state))

        best, table = search_scale(merged, score, self._settings.grid)
        return best, {name: column.tolist() for name, column in table.items()}

    def tensor(self, piece: Piece, scale: float) -> np.ndarray:
        """One tensor of the file."""
        if not piece.leaves:
            return self._sources.base.weights.read(piece.source)
        parts = [self._leaf(leaf, scale) for leaf in piece.leaves]
        whole = piece.join(parts)
        return whole.astype(self._plan.leaves[piece.source].dtype, copy=False)

    def _leaf(self, leaf: str, scale: float) -> np.ndarray:
        if leaf not in self._merged:
            return self._unmerged(leaf)
        if leaf in self._found:
            base, delta = self._sources.base.read(leaf), self._found.pop(leaf)
        else:
            base, delta = self._delta(leaf)
        # Widened here: the result is rounded once, to the type that is written.
        wide = {leaf: base.astype(self._sources.wide(leaf), copy=False)}
        return np.asarray(apply_task_vector(wide, {leaf: delta}, scale)[leaf])

    def _unmerged(self, leaf: str) -> np.ndarray:
        own = self._sources.base.read(leaf)
        is_mean = (
            leaf in self._sources.state
            and self._settings.batch_stats == "average"
            and jnp.issubdtype(own.dtype, jnp.inexact)
        )
        if not is_mean:
            return own
        theirs_T = np.stack([model.read(leaf) for model in self._sources.models])
        mean = weighted(jnp.asarray(theirs_T), self._context.weights, normalize=True)
        return np.asarray(mean).astype(own.dtype)

    def _delta(self, leaf: str) -> tuple[np.ndarray, Any]:
        base, vectors = self._sources.vectors(leaf)
        delta = self._reduce(leaf, base, vectors)
        self.figures.add(np.asarray(vectors), np.asarray(delta))
        self._tell(leaf)
        return base, delta

    def _tell(self, leaf: str) -> None:
        """A line for each tenth of the numbers."""
        total = max(self._sources.entries(), 1)
        before = 10 * self._done // total
        self._done += self._sources.base.leaves[leaf].size
        if 10 * self._done // total > before:
            self._say(f"merged {100 * self._done // total:3d} %  {leaf}")


def _pieces(settings: Settings, sources: Sources) -> tuple[Piece, ...]:
    """Those of the base's file, or one for each leaf under its Flax name."""
    if settings.out_names == "same":
        return sources.base.pieces
    top = "params/" if sources.state else ""
    return tuple(
        same(leaf if leaf.startswith(STATE) else top + leaf, leaf)
        for leaf in sources.base.leaves
    )


def _leaf(settings: Settings, sources: Sources, piece: Piece) -> Leaf:
    base = sources.base
    if not piece.leaves:
        return base.weights.leaves[piece.source]
    is_same = settings.out_names == "same"
    shapes = (
        base.weights.leaves[piece.source] if is_same else base.leaves[piece.leaves[0]]
    )
    merged = settings.dtype and any(leaf in sources.merged for leaf in piece.leaves)
    dtype = settings.dtype if merged else base.leaves[piece.leaves[0]].dtype
    return Leaf(shapes.shape, np.dtype(dtype))


def _metadata(settings: Settings, sources: Sources, scale: float) -> dict[str, str]:
    """Strings that say what was merged, without the folders it came from."""

    def digest(weights: Any) -> str:
        return fingerprint(weights.path, weights.files)

    base = sources.base.weights
    kept_format = settings.out_names == "same" and base.metadata.get("format")
    return {
        "format": kept_format or "flax",
        "method": str(settings.recipe),
        "scale": repr(float(scale)),
        "base_sha256": digest(base),
        "models": json.dumps(
            [
                {"name": t.name, "weight": t.weight, "sha256": digest(model.weights)}
                for t, model in zip(settings.tasks, sources.models, strict=True)
            ]
        ),
    }
