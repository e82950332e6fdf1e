"""Images in folders, root/<environment>/<class>/<image>, as DomainBed reads them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jopt.data._pixels import Pixels
from jopt.data.environments._types import DomainTask, Environment
from jopt.errors import DataError, check_choice

# B rows of a batch; N images.

SIDE = 224
# Means and deviations of the channels of ImageNet, as commonly used.
PIXELS = Pixels(255.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".tif", ".tiff", ".webp")


class FolderSet(NamedTuple):
    """A published set of this layout.

    Attributes:
        environments: in sorted order, as letters or words that papers use.
        num_classes: C.
        eval_every: steps.
    """

    environments: tuple[str, ...]
    num_classes: int
    eval_every: int = 300


FOLDER_SETS = {
    "vlcs": FolderSet(("C", "L", "S", "V"), 5),
    "pacs": FolderSet(("A", "C", "P", "S"), 7),
    "office_home": FolderSet(("A", "C", "P", "R"), 65),
    "terra_incognita": FolderSet(("L100", "L38", "L43", "L46"), 10),
    "domain_net": FolderSet(
        ("clip", "info", "paint", "quick", "real", "sketch"), 345, eval_every=1000
    ),
    "sviro": FolderSet(
        (
            *("aclass", "escape", "hilux", "i3", "lexus"),
            *("tesla", "tiguan", "tucson", "x5", "zoe"),
        ),
        7,
    ),
}


@dataclasses.dataclass(frozen=True, eq=False)
class ImageFiles:
    """Images that are decoded when they are asked for: RGB, `side` x `side`, bilinear.

    Attributes:
        files: N paths.
        targets: int32.
        side: H and W; the image is stretched to it, as DomainBed does.
    """

    files: Sequence[Path]
    targets: np.ndarray
    class_names: tuple[str, ...]
    domain_names: tuple[str, ...]
    side: int = SIDE

    @property
    def size(self) -> int:
        """N."""
        return len(self.files)

    def rows(
        self,
        index_B: np.ndarray,
        change: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> dict[str, np.ndarray]:
        """As `Examples.rows`, (B, H, W, 3), centred by the statistics of ImageNet.

        Fails: `DataError` for a file that is no image.
        """
        stored = np.stack([_decoded(self.files[i], self.side) for i in index_B])
        count = len(index_B)
        return {
            "inputs": PIXELS.normed(stored if change is None else change(stored)),
            "targets": self.targets[index_B],
            "mask": np.ones(count, np.float32),
            "domain": np.zeros(count, np.int32),
        }


def folders_task(
    root: str | os.PathLike[str], name: str = "folders", *, side: int = SIDE
) -> DomainTask:
    """An environment for each folder in `root`, a class for each folder in these.

    Environments and classes are sorted by name; classes are those of the last
    environment, and all others must have the same. Nothing is decoded here. The
    augmentation of DomainBed is not offered.

    Args:
        root: where the folders are.
        name: of the task; for a key of `FOLDER_SETS` the numbers of environments and
            classes are checked.
        side: H and W.

    Fails: `DataError` for another layout: what is missing, and in which environment.
    """
    root = Path(root).expanduser()
    names = _folders(root)
    if not names:
        raise DataError(
            f"{root} has no folders; expected <environment>/<class>/<image>"
        )
    classes = _folders(root / names[-1])
    for env in names:
        _check_classes(root / env, classes, names[-1])
    envs = tuple(Environment(env, _files(root / env, classes, side)) for env in names)
    known = FOLDER_SETS.get(name)
    if known and (len(names), len(classes)) != (
        len(known.environments),
        known.num_classes,
    ):
        raise DataError(
            f"{root}: {name} has {len(known.environments)} environments "
            f"({', '.join(known.environments)}) of {known.num_classes} classes; found "
            f"{len(names)} ({', '.join(names)}) of {len(classes)}"
        )
    return DomainTask(
        name,
        envs,
        (side, side, 3),
        len(classes),
        num_steps=5001,
        eval_every=known.eval_every if known else 300,
        chance=1 / (2 * len(classes)),
    )


def folder_set(name: str, root: str | os.PathLike[str]) -> DomainTask:
    """One of `FOLDER_SETS`, read by `folders_task`.

    Fails: `ConfigError` for an unknown name, `DataError` as `folders_task`.
    """
    check_choice("set", name, FOLDER_SETS)
    return folders_task(root, name)


def _folders(path: Path) -> list[str]:
    if not path.is_dir():
        raise DataError(f"{path} is no folder; expected <environment>/<class>/<image>")
    return sorted(p.name for p in path.iterdir() if p.is_dir() and p.name[0] != ".")


def _check_classes(path: Path, classes: Sequence[str], last: str) -> None:
    found = _folders(path)
    if found != list(classes):
        missing = sorted(set(classes) - set(found)) or ["none"]
        further = sorted(set(found) - set(classes)) or ["none"]
        raise DataError(
            f"environment {path.name} has other classes than {last}: missing "
            f"{', '.join(missing)}; further {', '.join(further)}"
        )


def _files(path: Path, classes: Sequence[str], side: int) -> ImageFiles:
    files: list[Path] = []
    targets: list[int] = []
    for target, name in enumerate(classes):
        found = sorted(
            p for p in (path / name).rglob("*") if p.suffix.lower() in SUFFIXES
        )
        files += found
        targets += [target] * len(found)
    if not files:
        raise DataError(f"environment {path.name} has no images in {path}")
    return ImageFiles(
        files, np.array(targets, np.int32), tuple(classes), (path.name,), side
    )


def _decoded(path: Path, side: int) -> np.ndarray:
    """uint8 (side, side, 3)."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise DataError(
            "image files need the package pillow, which is not installed; run\n"
            "  pip install pillow"
        ) from error
    try:
        with Image.open(path) as image:
            resized = image.convert("RGB").resize(
                (side, side), Image.Resampling.BILINEAR
            )
            return np.asarray(resized)
    except (OSError, UnidentifiedImageError) as error:
        raise DataError(f"cannot read the image {path}: {error}") from error
