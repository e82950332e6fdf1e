"""How sets of WILDS are laid out: files, columns, and what their splits mean.

Koh et al., 2021, arXiv 2012.07421. Names are those that the loaders of the package
wilds read; no download was read here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from jopt.data.environments._cells import Row

IDENTITIES = (
    *("male", "female", "LGBTQ", "christian", "muslim", "other_religions"),
    *("black", "white"),
)
BYTES = 512  # of a text, at most
TEST = ", test"  # ends the name of an environment of the published test split
SPLIT = "split"  # the column of published splits


class Place(NamedTuple):
    """Where an example is.

    Attributes:
        environment: its name.
        held_out: as published; None where that is not known.
    """

    environment: str
    held_out: bool | None = None


class Scheme(NamedTuple):
    """How a set is laid out.

    Attributes:
        table: the file with a row for each example.
        columns: that are read.
        places: the environments of a row; one for most.
        label: its class.
        classes: names.
        tests: by names of all environments, the numbers of those of the test.
        image: its file, below the root; None for text.
        text: what is read; None for an image.
        side: of an image.
        splits: a further file, with the column `split` for each row of the table.
        over_tests: as in `EnvironmentSet`, and as papers report it.
    """

    table: str
    columns: tuple[str, ...]
    places: Callable[[Row], Sequence[Place]]
    label: Callable[[Row], int]
    classes: tuple[str, ...]
    tests: Callable[[Sequence[str]], tuple[int, ...]]
    image: Callable[[Row], str] | None = None
    text: Callable[[Row], str] | None = None
    side: int = 96
    splits: str | None = None
    over_tests: str = "mean"

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one example."""
        return (self.side, self.side, 3) if self.image else (BYTES,)


def _patch(row: Row) -> str:
    slide = f"patient_{row.whole('patient'):03d}_node_{row.whole('node')}"
    x, y = row.text("x_coord"), row.text("y_coord")
    return f"patches/{slide}/patch_{slide}_x_{x}_y_{y}.png"


def _hospital(row: Row) -> Sequence[Place]:
    """In `split` 1 is the validation part of a hospital."""
    name = f"hospital {row.whole('center')}"
    if SPLIT not in row:
        return [Place(name)]
    return [Place(name, row.one_of(SPLIT, ("0", "1")) == "1")]


def _second_hospital(names: Sequence[str]) -> tuple[int, ...]:
    return tuple(e for e, name in enumerate(names) if name == "hospital 2")


# Of `splits/user.csv`: what there is for a user who is trained on, and for one of the
# test. Others are not read: rows left out (-1), users of the validation (1), and test
# rows of users who are trained on (4).
_TRAIN, _TRAIN_VALIDATION, _TEST_USER = "0", "2", "3"


def _user(row: Row) -> Sequence[Place]:
    name = row.text("reviewerID")
    if SPLIT not in row:
        return [Place(name)]
    split = row.one_of(SPLIT, ("-1", "0", "1", "2", "3", "4"))
    if split == _TEST_USER:
        return [Place(name + TEST)]
    if split in (_TRAIN, _TRAIN_VALIDATION):
        return [Place(name, split == _TRAIN_VALIDATION)]
    return []


def _last_quarter(names: Sequence[str]) -> tuple[int, ...]:
    """Without a published split; with one those of its test, which are last."""
    return _published(names) or last_quarter(len(names))


def last_quarter(count: int) -> tuple[int, ...]:
    """Numbers of the last quarter of so many environments.

    >>> last_quarter(8)
    (6, 7)
    """
    return tuple(range(count - count // 4, count))


def _groups(row: Row) -> Sequence[Place]:
    """Identity x label: a comment that names several identities is in several."""
    kind = "toxic" if row.number("toxicity") >= 0.5 else "not toxic"
    split = row.one_of(SPLIT, ("train", "val", "test"))
    names = [f"{x}, {kind}" for x in IDENTITIES if row.text(x) and row.number(x) >= 0.5]
    if split == "test":
        return [Place(name + TEST) for name in names]
    return [Place(name, split == "val") for name in names]


def _published(names: Sequence[str]) -> tuple[int, ...]:
    return tuple(e for e, name in enumerate(names) if name.endswith(TEST))


SCHEMES = {
    "camelyon17": Scheme(
        table="metadata.csv",
        columns=("patient", "node", "x_coord", "y_coord", "tumor", "center"),
        places=_hospital,
        label=lambda row: row.whole("tumor"),
        classes=("normal", "tumour"),
        tests=_second_hospital,
        image=_patch,
    ),
    "amazon": Scheme(
        table="reviews.csv",
        columns=("reviewerID", "reviewText", "overall"),
        places=_user,
        label=lambda row: row.whole("overall") - 1,
        classes=("1", "2", "3", "4", "5"),
        tests=_last_quarter,
        text=lambda row: row.text("reviewText"),
        splits="splits/user.csv",
        over_tests="percentile_10",
    ),
    "civilcomments": Scheme(
        table="all_data_with_identities.csv",
        columns=("comment_text", "toxicity", SPLIT, *IDENTITIES),
        places=_groups,
        label=lambda row: int(row.number("toxicity") >= 0.5),
        classes=("not toxic", "toxic"),
        tests=_published,
        text=lambda row: row.text("comment_text"),
        over_tests="worst",
    ),
}
