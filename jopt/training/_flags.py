"""The command line: a config file, overrides, and where the run goes."""

from __future__ import annotations

import dataclasses
import importlib.util
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from jopt.errors import ConfigError, nearest
from jopt.training._config import flatten, unknown_key


@dataclasses.dataclass(frozen=True)
class CommandLine:
    """A parsed command line.

    Attributes:
        config: the config with its overrides applied, not validated.
        config_name: the file's stem, followed by `-size` where an argument was given.
        overrides: the dotted keys set on the command line.
        workdir: where the run goes, if stated.
        sweep: file that says which sweep the run came from, if stated.
        dry_run: only show what would run.
        strict_restore: stop at a damaged checkpoint instead of using an older one.
        rest: positional arguments.
        coordinator: HOST:PORT of process 0, where there are several.
        num_processes: of the job.
        process_id: of this process.
    """

    config: ConfigDict
    config_name: str
    overrides: dict[str, Any]
    workdir: Path | None
    sweep: Path | None
    dry_run: bool
    strict_restore: bool
    rest: tuple[str, ...]
    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None


def parse(argv: Sequence[str]) -> CommandLine:
    """Reads `--config=FILE[:ARG] --config.KEY=VALUE --workdir=DIR` and switches.

    Fails: `ConfigError` for anything that cannot be used, with the nearest key or flag.
    """
    argv = _joined(list(argv))
    reference = _config_reference(argv)
    config = load_config(reference)
    _check_overrides(argv, config)
    argv = [word for word in argv if not word.startswith("--config=")]
    values = flags.FlagValues()
    config_flags.DEFINE_config_dict(
        "config",
        config,
        flag_values=values,
        sys_argv=["jopt", *argv],
        lock_config=False,
    )
    flags.DEFINE_string("workdir", None, "folder of the run", flag_values=values)
    flags.DEFINE_string("sweep", None, "the sweep's record", flag_values=values)
    flags.DEFINE_bool("dry_run", False, "train nothing", flag_values=values)
    flags.DEFINE_bool("strict_restore", False, "no fallback", flag_values=values)
    flags.DEFINE_string("coordinator", None, "HOST:PORT", flag_values=values)
    flags.DEFINE_integer("num_processes", None, "of the job", flag_values=values)
    flags.DEFINE_integer("process_id", None, "from 0", flag_values=values)
    try:
        rest = values(["jopt", *argv])
    except flags.Error as error:
        raise ConfigError(f"{_plain(error)}; --help lists the flags") from None
    except (KeyError, AttributeError, ValueError, TypeError) as error:
        raise ConfigError(f"an override cannot be used: {_plain(error)}") from None
    file, _, argument = reference.partition(":")
    name = Path(file).stem + (f"-{argument}" if argument else "")
    return CommandLine(
        config=config,
        config_name=name,
        overrides=dict(config_flags.get_override_values(values["config"])),
        workdir=_folder(values.workdir),
        sweep=None if values.sweep is None else Path(values.sweep),
        dry_run=values.dry_run,
        strict_restore=values.strict_restore,
        rest=tuple(rest[1:]),
        coordinator=values.coordinator,
        num_processes=values.num_processes,
        process_id=values.process_id,
    )


_WITH_VALUE = (
    *("config", "workdir", "sweep"),
    *("coordinator", "num_processes", "process_id"),
)


def _folder(text: str | None) -> Path | None:
    """The folder of a run, which is one of a file system: it is locked and renamed in.

    Without this check gs://bucket/run would become a local folder named `gs:`.
    """
    if text is None:
        return None
    if "://" in text:
        raise ConfigError(
            f"--workdir={text} is a place in a bucket, and a run folder needs a file "
            "system (locks, renames, appending); name a folder, and let tpu_scripts/ "
            "copy it to the bucket and back (docs/tpu_pods.md)"
        )
    return Path(text)


def _joined(argv: list[str]) -> list[str]:
    """`--name value` as `--name=value`, for the flags that take a value."""
    joined = []
    words = iter(argv)
    for word in words:
        takes_value = word.lstrip("-") in _WITH_VALUE or (
            word.startswith("--config.") and "=" not in word
        )
        if takes_value:
            value = next(words, None)
            if value is None or value.startswith("--"):
                raise ConfigError(f"{word} needs a value: {word}=VALUE")
            word = f"{word}={value}"
        joined.append(word)
    return joined


def _config_reference(argv: Sequence[str]) -> str:
    found = [word.split("=", 1)[1] for word in argv if word.startswith("--config=")]
    if not found:
        raise ConfigError("no config: pass --config=configs/muon_lm.py")
    return found[-1]


def _check_file(path: Path) -> None:
    if path.is_file():
        return
    folder = path.parent
    siblings = sorted(p.name for p in folder.glob("*.py")) if folder.is_dir() else []
    close = nearest(path.name, siblings)
    hint = f"; did you mean {folder / close}?" if close else ""
    if not close and siblings:
        hint = f"; there are {', '.join(siblings)}"
    raise ConfigError(f"config file {path} does not exist{hint}")


def load_config(reference: str) -> ConfigDict:
    """What `get_config` of a config file returns.

    Args:
        reference: `FILE` or `FILE:ARGUMENT`; the argument is passed on.

    Fails: `ConfigError` when there is no such file, or it does not run, or it returns
    something else than a `ConfigDict`.
    """
    file, _, argument = reference.partition(":")
    path = Path(file)
    _check_file(path)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"config file {path} is not a Python file (*.py)")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config(argument)
    except ConfigError:
        raise
    except Exception as error:
        # Anything may go wrong in a file that is executed; it is named, not swallowed.
        line = traceback.extract_tb(error.__traceback__)[-1]
        raise ConfigError(
            f"config file {reference} failed: {type(error).__name__}: {error} "
            f"({Path(line.filename).name}, line {line.lineno})"
        ) from error
    if not isinstance(config, ConfigDict):
        raise ConfigError(
            f"get_config in {reference} returned {type(config).__name__}; an "
            "ml_collections.ConfigDict is expected"
        )
    return config


def _check_overrides(argv: Sequence[str], config: ConfigDict) -> None:
    known = dict(flatten(config))
    groups = {key.rsplit(".", depth)[0] for key in known for depth in (1, 2, 3)}
    faults = []
    for word in argv:
        if not word.startswith("--config."):
            continue
        key = word.removeprefix("--config.").split("=", 1)[0]
        if key in groups - set(known):
            faults.append(f"{key} is a group of keys; set one of its keys")
        elif key not in known:
            faults.append(unknown_key(key, known))
    if faults:
        raise ConfigError("\n".join(faults))


def _plain(error: Exception) -> str:
    return str(error).strip("'\"").replace("\n", " ")
