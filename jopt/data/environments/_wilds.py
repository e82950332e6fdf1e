"""WILDS sets that are on disk, read from their tables without torch.

Koh et al., 2021, arXiv 2012.07421. Names of files and columns are recalled and were
compared with no download here; a table without them is an error that says so.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jopt.data._examples import Examples
from jopt.data.environments._folders import ImageFiles
from jopt.data.environments._types import DomainTask, Environment
from jopt.errors import DataError, check_choice

# N rows; T bytes.

Row = dict[str, str]
IDENTITIES = (
    *("male", "female", "LGBTQ", "christian", "muslim", "other_religions"),
    *("black", "white"),
)
BYTES = 512  # of a text, at most
PADDING = 0


class Scheme(NamedTuple):
    """How a set is laid out.

    Attributes:
        table: the file with a row for each example.
        columns: that are read.
        domain: the environments of a row; one for most.
        label: its class.
        classes: names.
        image: its file, below the root; None for text.
        text: what is read; None for an image.
        side: of an image.
        metric: what papers report on the test.
    """

    table: str
    columns: tuple[str, ...]
    domain: Callable[[Row], Sequence[str]]
    label: Callable[[Row], int]
    classes: tuple[str, ...]
    image: Callable[[Row], str] | None = None
    text: Callable[[Row], str] | None = None
    side: int = 96
    metric: str = "accuracy"


def _patch(row: Row) -> str:
    slide = f"patient_{int(row['patient']):03d}_node_{int(row['node'])}"
    return f"patches/{slide}/patch_{slide}_x_{row['x_coord']}_y_{row['y_coord']}.png"


def _groups(row: Row) -> Sequence[str]:
    """Identity x label: a comment that names several identities is in several."""
    kind = "toxic" if float(row["toxicity"]) >= 0.5 else "not toxic"
    return [f"{name}, {kind}" for name in IDENTITIES if float(row[name] or 0) >= 0.5]


SCHEMES = {
    "camelyon17": Scheme(
        table="metadata.csv",
        columns=("patient", "node", "x_coord", "y_coord", "tumor", "center"),
        domain=lambda row: [f"hospital {row['center']}"],
        label=lambda row: int(row["tumor"]),
        classes=("normal", "tumour"),
        image=_patch,
    ),
    "amazon": Scheme(
        table="reviews.csv",
        columns=("reviewerID", "reviewText", "overall"),
        domain=lambda row: [row["reviewerID"]],
        label=lambda row: round(float(row["overall"])) - 1,
        classes=("1", "2", "3", "4", "5"),
        text=lambda row: row["reviewText"],
        metric="accuracy_10th_percentile",
    ),
    "civilcomments": Scheme(
        table="all_data_with_identities.csv",
        columns=("comment_text", "toxicity", *IDENTITIES),
        domain=_groups,
        label=lambda row: int(float(row["toxicity"]) >= 0.5),
        classes=("not toxic", "toxic"),
        text=lambda row: row["comment_text"],
        metric="worst_group_accuracy",
    ),
}


def wilds_task(
    name: str,
    root: str | os.PathLike[str],
    *,
    min_examples: int = 1,
    largest: int | None = None,
) -> DomainTask:
    """Environments of a WILDS set that was downloaded before.

    Hospitals of `camelyon17`, users of `amazon`, identity x label of `civilcomments`,
    where a comment may be in several environments and one without an identity is in
    none. Text is int32 (N, T) bytes, cut and filled up with 0. Fmow, whose regions are
    in a second table, is not here.

    Args:
        name: a key of `SCHEMES`.
        root: the folder of the set, such as `data/camelyon17_v1.0`.
        min_examples: environments with fewer are left out.
        largest: of the others only so many, those with most examples, are kept.

    Fails: `DataError` where the table, one of its columns or all examples are missing.
    """
    check_choice("WILDS set", name, SCHEMES)
    scheme, root = SCHEMES[name], Path(root).expanduser()
    by_domain: dict[str, list[Row]] = {}
    for row in _rows(root / scheme.table, scheme.columns):
        for domain in scheme.domain(row):
            by_domain.setdefault(domain, []).append(row)
    kept = {
        d: rows for d, rows in sorted(by_domain.items()) if len(rows) >= min_examples
    }
    if not kept:
        raise DataError(
            f"{root / scheme.table} has no environment of {min_examples} examples or "
            "more; lower min_examples"
        )
    if largest is not None:
        by_size = sorted(kept, key=lambda domain: -len(kept[domain]))[:largest]
        kept = {domain: kept[domain] for domain in sorted(by_size)}
    read = _images if scheme.image else _texts
    envs = tuple(
        Environment(domain, read(root, domain, rows, scheme))
        for domain, rows in kept.items()
    )
    shape = (scheme.side, scheme.side, 3) if scheme.image else (BYTES,)
    classes = len(scheme.classes)
    return DomainTask(
        name, envs, shape, classes, metric=scheme.metric, chance=1 / (2 * classes)
    )


def _rows(path: Path, columns: Sequence[str]) -> list[Row]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            missing = [
                name for name in columns if name not in (reader.fieldnames or ())
            ]
            if missing:
                raise DataError(
                    f"{path} has no column {', '.join(missing)}; found "
                    f"{', '.join(reader.fieldnames or ['none'])}"
                )
            return list(reader)
    except OSError as error:
        raise DataError(
            f"cannot read {path}: {error}; download the set with the package wilds and "
            "name its folder"
        ) from error


def _labels(rows: Sequence[Row], scheme: Scheme) -> np.ndarray:
    return np.array([scheme.label(row) for row in rows], np.int32)


def _images(root: Path, domain: str, rows: Sequence[Row], scheme: Scheme) -> ImageFiles:
    assert scheme.image is not None
    files = [root / scheme.image(row) for row in rows]
    return ImageFiles(
        files, _labels(rows, scheme), scheme.classes, (domain,), scheme.side
    )


def _texts(root: Path, domain: str, rows: Sequence[Row], scheme: Scheme) -> Examples:
    assert scheme.text is not None
    bytes_NT = np.full((len(rows), BYTES), PADDING, np.int32)
    for number, row in enumerate(rows):
        data = scheme.text(row).encode()[:BYTES]
        bytes_NT[number, : len(data)] = np.frombuffer(data, np.uint8)
    return Examples(
        inputs=bytes_NT,
        targets=_labels(rows, scheme),
        domains=np.zeros(len(rows), np.int32),
        class_names=scheme.classes,
        domain_names=(domain,),
    )
