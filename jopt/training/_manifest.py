"""What a checkpoint must contain, written last and checked first.

Orbax commits a step by renaming a folder, which survives a kill, but it reads damaged
bytes without complaint. A manifest lists the SHA-256 of every file of a step. Since it
is written after all of them, a step counts as committed once its manifest is there.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

NAME = "manifest.json"


def write_manifest(folder: Path, step: int, leaves: Mapping[str, str]) -> None:
    """Commits the step in `folder`: digests of all its files, and of its leaves.

    The file appears at once and whole, after its bytes have reached the disk.

    Args:
        folder: of the step; nothing in it changes any more.
        step: repeated inside, so that a folder under another number is noticed.
        leaves: SHA-256 by path, for the leaves that this process holds whole.
    """
    body = {"step": step, "files": _files(folder), "leaves": dict(leaves)}
    partial = folder / f".{NAME}"
    with partial.open("wb") as file:
        file.write(_encoded(body))
        file.flush()
        os.fsync(file.fileno())
    partial.replace(folder / NAME)


def is_committed(folder: Path) -> bool:
    """Whether the save of this step came to its end. Says nothing about damage since.

    >>> is_committed(Path("no-such-folder"))
    False
    """
    return (folder / NAME).is_file()


def find_damage(folder: Path, step: int) -> list[str]:
    """What is wrong with a step's files, one line each; nothing when all are as saved.

    Reads every byte of the step once. A manifest is compared byte for byte with what
    `write_manifest` would have written, so no flipped bit in it goes unseen either.
    """
    manifest = _read(folder)
    if isinstance(manifest, str):
        return [manifest]
    damage = []
    if manifest["step"] != step:
        damage.append(f"{NAME} belongs to step {manifest['step']}")
    expected, found = manifest["files"], _files(folder)
    damage += [f"{name} is missing" for name in expected if name not in found]
    damage += [f"{name} is not expected" for name in found if name not in expected]
    return damage + _differing(expected, found)


def find_leaf_damage(folder: Path, leaves: Mapping[str, str]) -> list[str]:
    """Which leaves, restored and digested, are not those that the manifest lists.

    Args:
        folder: of a step.
        leaves: SHA-256 by path; a leaf that only one side has is not compared.
    """
    manifest = _read(folder)
    if isinstance(manifest, str):
        return [manifest]
    return _differing(manifest["leaves"], leaves)


def _differing(expected: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    return [
        f"{name}: digest differs"
        for name, digest in expected.items()
        if found.get(name, digest) != digest
    ]


def _read(folder: Path) -> dict[str, Any] | str:
    """The body of a manifest, or what is wrong with it."""
    path = folder / NAME
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return f"{NAME} is missing: the save did not come to its end"
    try:
        body = json.loads(content)["body"]
        sound = content == _encoded(body)
    except (ValueError, KeyError, TypeError):
        sound = False
    return body if sound else f"{NAME} is damaged"


def _encoded(body: Mapping[str, Any]) -> bytes:
    text = json.dumps(body, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f'{{"body": {text},\n "sha256": "{digest}"}}\n'.encode()


def _files(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below `folder`, by relative path, without the manifest."""
    digests = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in (NAME, f".{NAME}"):
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            digests[path.relative_to(folder).as_posix()] = digest
    return digests
