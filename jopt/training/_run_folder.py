"""The folder of a run: plain files, never overwritten silently."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

import jax
from ml_collections import ConfigDict

from jopt import models
from jopt.errors import ConfigError, WorkdirInUseError
from jopt.reporting import read_json, read_run, write_json
from jopt.training._config import default_config, flatten

LOCK = ".lock"
PACKAGES = ("jopt", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def plain(config: ConfigDict) -> dict[str, Any]:
    """A resolved config as dotted keys and JSON values."""
    return json.loads(json.dumps(dict(flatten(config)), sort_keys=True))


def default_folder(config_name: str, config: ConfigDict) -> Path:
    """`runs/<config>-<8 hex digits of the resolved config>`."""
    text = json.dumps(plain(config), sort_keys=True)
    return (
        Path("runs") / f"{config_name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    )


def read_config(path: Path) -> ConfigDict:
    """The resolved config of the run in a folder. Fails: as `read_run`."""
    return ConfigDict(read_run(path, "config")["config"])


class RunFolder:
    """Creates a run's folder, or finds the same run in it, and holds it.

    Fails: `ConfigError` when the folder cannot be made, belongs to something else, or
    holds a run of another config, and `WorkdirInUseError` when another process holds
    it; nothing in it is touched then.

    Of several processes of a job the first holds the folder and writes; the others
    follow: they only read, and leave their checkpoints' parts and `stacks-<id>.txt`.
    """

    def __init__(
        self,
        path: Path,
        config_name: str,
        config: ConfigDict,
        *,
        overrides: dict[str, Any],
        command: Sequence[str],
        sweep: dict[str, Any] | None = None,
        follows: bool = False,
    ) -> None:
        self.path = path
        self._follows = follows
        self.checkpoints = path / "checkpoints"
        self.metrics = path / "metrics.jsonl"
        self.communication = path / "communication.csv"
        self.stacks = path / "stacks.txt"
        if follows:
            self.stacks = path / f"stacks-{jax.process_index()}.txt"
            return
        self._make_folder()
        if not (path / "config.json").exists():
            self._check_empty()
        self._lock = self._take_lock()
        try:
            if (path / "config.json").exists():
                self._check_same(plain(config))
            else:
                record = _record(config_name, config, overrides, command, sweep)
                write_json(path / "config.json", record)
        except BaseException:
            self.close()
            raise

    def _make_folder(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / f".write-test-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ConfigError(
                f"workdir {self.path} cannot be written: {error.strerror}; choose "
                "another with --workdir=FOLDER"
            ) from None

    def _take_lock(self) -> TextIO:
        """An open file that no second process can lock; released by the system."""
        file = (self.path / LOCK).open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            raise WorkdirInUseError(
                f"workdir {self.path} is in use by process "
                f"{self.status().get('pid', 'unknown')}; wait for it, stop it, or "
                "choose another with --workdir=FOLDER"
            ) from None
        return file

    def _check_same(self, wanted: dict[str, Any]) -> None:
        try:
            present = read_run(self.path, "flat_config")["flat_config"]
        except ConfigError as error:
            raise ConfigError(
                f"{error}; choose another --workdir, or move that folder away"
            ) from None
        keys = sorted(
            key
            for key in wanted.keys() | present.keys()
            if wanted.get(key) != present.get(key)
        )
        if keys:
            shown = "\n".join(
                f"    {key}: {present.get(key)!r} there, {wanted.get(key)!r} now"
                for key in keys[:8]
            )
            raise ConfigError(
                f"workdir {self.path} holds a run of another config:\n{shown}\n"
                "  choose another --workdir, or none for a folder named by the config"
            )

    def _check_empty(self) -> None:
        if any(entry.name != LOCK for entry in self.path.iterdir()):
            raise ConfigError(
                f"workdir {self.path} is not empty and holds no jopt run (no "
                "config.json); choose another with --workdir=FOLDER"
            )

    def close(self) -> None:
        """Lets another process have the folder."""
        if not self._follows:
            self._lock.close()

    def status(self) -> dict[str, Any]:
        """The last status written, `{"state": "pending"}` before the first."""
        path = self.path / "status.json"
        if not path.exists():
            return {"state": "pending"}
        return read_json(path)

    def set_status(self, state: str, **details: Any) -> None:
        """Replaces `status.json` in one move; one that follows does nothing."""
        if self._follows:
            return
        record = {
            "state": state,
            "heartbeat": time.time(),
            "pid": os.getpid(),
            **details,
        }
        write_json(self.path / "status.json", record)


def _record(
    config_name: str,
    config: ConfigDict,
    overrides: dict[str, Any],
    command: Sequence[str],
    sweep: dict[str, Any] | None,
) -> dict[str, Any]:
    """What `config.json` says."""
    return {
        "config_name": config_name,
        "config": json.loads(config.to_json_best_effort()),
        "flat_config": plain(config),
        "flat_default": plain(_defaults()),
        "overrides": {key: str(value) for key, value in overrides.items()},
        "sweep": sweep,
        "versions": versions(),
        "commit": commit(),
        "devices": [str(device) for device in jax.devices()],
        "command": list(command),
    }


def _defaults() -> ConfigDict:
    """What a config is compared with in reports: every key, no rules."""
    config = default_config()
    config.model = models.default_config()
    return config


def versions() -> dict[str, str]:
    """Installed versions of the packages that a result depends on."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def commit() -> str:
    """The commit of the checkout that jopt is imported from, or `unknown`."""
    checkout = Path(__file__).parents[2]
    if not (checkout / ".git").exists():
        # tpu_scripts/sync_code.sh leaves it where it copies a checkout to.
        copied = checkout / "CODE_VERSION"
        return copied.read_text().strip() if copied.exists() else "unknown"
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=checkout,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() or "unknown"
