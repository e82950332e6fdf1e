"""Images in folders, one for each class."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from jopt.errors import DataError

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".webp"})


@dataclasses.dataclass(frozen=True, eq=False)
class FolderRecords:
    """Records with `image`, uint8 (H, W, 3), and `label`; decoded as they are read."""

    files: tuple[Path, ...]
    labels: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        from PIL import Image

        with Image.open(self.files[index]) as image:
            pixels = np.asarray(image.convert("RGB"))
        return {"image": pixels, "label": self.labels[index]}


def open_folders(root: Path) -> FolderRecords:
    """The images below the folders of `root`; classes are numbered by their names.

    Fails: `DataError` where there are none.
    """
    classes = sorted(path for path in root.glob("*/") if path.is_dir())
    found = [
        (file, label)
        for label, folder in enumerate(classes)
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() in _SUFFIXES
    ]
    if not found:
        raise DataError(
            f"{root} has no images; a folder for each class, with "
            f"{', '.join(sorted(_SUFFIXES))} in it, is expected"
        )
    files, labels = zip(*found, strict=True)
    return FolderRecords(files, labels)
