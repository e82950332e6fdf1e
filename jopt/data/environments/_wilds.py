"""WILDS sets that are on disk, read from their tables without torch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from jopt.data._examples import Examples
from jopt.data.environments._cells import Row, read_rows
from jopt.data.environments._folders import ImageFiles
from jopt.data.environments._types import DomainTask, Environment
from jopt.data.environments._wilds_schemes import BYTES, SCHEMES, SPLIT, TEST, Scheme
from jopt.errors import DataError, check_choice

# N rows; T bytes.

PADDING = 0
# The rows of an environment, and whether each is held out.
Members = Mapping[str, Sequence[tuple[Row, bool | None]]]


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

    The published splits are taken where the files have them: `split` of `camelyon17`
    and of `civilcomments` (which must), `splits/user.csv` of `amazon`. What they
    validate on in an environment is held out there, and environments of their test are
    last, with names that end in `TEST`. Where they hold nothing out of an environment,
    as of a test, or all of it, a fifth is drawn as everywhere. Tests: hospital 2; of
    users the published ones or the last quarter; groups of published test comments.

    Args:
        name: a key of `SCHEMES`.
        root: the folder of the set, such as `data/camelyon17_v1.0`.
        min_examples: environments with fewer are left out.
        largest: of the others only so many, those with most examples, are kept; with a
            published split a quarter of them of the test.

    Fails: `DataError` where the table, one of its columns or all examples are missing,
    and for a cell that cannot be read, with file, line and column.
    """
    check_choice("WILDS set", name, SCHEMES)
    scheme, root = SCHEMES[name], Path(root).expanduser()
    members = _members(root, scheme)
    kept = {n: own for n, own in members.items() if len(own) >= min_examples}
    if not kept:
        raise DataError(
            f"{root / scheme.table} has no environment of {min_examples} examples or "
            "more; lower min_examples"
        )
    names = _named(kept, largest)
    classes = len(scheme.classes)
    return DomainTask(
        name,
        tuple(_environment(root, env, kept[env], scheme) for env in names),
        scheme.input_shape,
        classes,
        default_test_envs=scheme.tests(names),
        chance=1 / (2 * classes),
    )


def _members(root: Path, scheme: Scheme) -> Members:
    found: dict[str, list[tuple[Row, bool | None]]] = {}
    for row in _rows(root, scheme):
        for place in scheme.places(row):
            found.setdefault(place.environment, []).append((row, place.held_out))
    return found


def _rows(root: Path, scheme: Scheme) -> Iterator[Row]:
    rows = read_rows(root / scheme.table, scheme.columns)
    path = root / scheme.splits if scheme.splits else None
    if path is None or not path.exists():
        yield from rows
        return
    splits = read_rows(path, (SPLIT,))
    if len(splits) != len(rows):
        raise DataError(
            f"{path} has {len(splits)} rows; expected one for each of the {len(rows)} "
            f"of {root / scheme.table}"
        )
    for row, split in zip(rows, splits, strict=True):
        row[SPLIT] = split.text(SPLIT)
        yield row


def _named(members: Members, most: int | None) -> list[str]:
    """Those of a published test last; of each kind the largest, or all."""
    tests = [name for name in members if name.endswith(TEST)]
    others = [name for name in members if not name.endswith(TEST)]
    if most is not None:
        of_tests = most // 4 if tests else 0
        tests = _largest(members, tests, of_tests)
        others = _largest(members, others, most - of_tests)
    return [*sorted(others), *sorted(tests)]


def _largest(members: Members, names: Sequence[str], most: int) -> list[str]:
    """Of equals the first by name."""
    return sorted(sorted(names), key=lambda name: -len(members[name]))[:most]


def _environment(
    root: Path, name: str, members: Sequence[tuple[Row, bool | None]], scheme: Scheme
) -> Environment:
    rows = [row for row, _ in members]
    read = _images if scheme.image else _texts
    held_N = np.array([bool(held) for _, held in members])
    published = held_N.any() and not held_N.all()
    return Environment(
        name,
        read(root, name, rows, scheme),
        held_out=held_N if published else None,
    )


def _labels(rows: Sequence[Row], scheme: Scheme) -> np.ndarray:
    labels = [scheme.label(row) for row in rows]
    for row, label in zip(rows, labels, strict=True):
        if not 0 <= label < len(scheme.classes):
            raise DataError(
                f"{row.path}, line {row.line}: class {label} of {len(scheme.classes)}"
            )
    return np.array(labels, np.int32)


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
