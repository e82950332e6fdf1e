"""Files that are never half written, and what they hold."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from jopt.errors import ConfigError


def write_text(path: Path, text: str) -> None:
    """Writes a file that is either the old or the new one, never half of it."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Writes a record as `write_text` does."""
    write_text(path, json.dumps(record, indent=2, default=str) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The record in a file. Fails: `ConfigError` where there is none, or half of one.

    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "record.json")
    ...     write_json(path, {"step": 3})
    ...     read_json(path)
    {'step': 3}
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is not a readable JSON file: {error}") from None
    if not isinstance(record, dict):
        raise ConfigError(f"{path} holds {type(record).__name__}; a record is expected")
    return record


def read_run(folder: Path, *keys: str) -> dict[str, Any]:
    """What `config.json` says of the run in a folder, which is left as it is.

    Args:
        folder: of the run.
        keys: what the caller needs of it.

    Fails: `ConfigError` where there is no readable run, or a key is missing.
    """
    try:
        record = read_json(folder / "config.json")
    except ConfigError as error:
        raise ConfigError(f"{folder} is not a readable run folder: {error}") from None
    for key in keys:
        if key not in record:
            raise ConfigError(
                f"{folder} is not a readable run folder: config.json has no {key!r}"
            )
    return record
