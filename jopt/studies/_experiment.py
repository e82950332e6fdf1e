"""Studies that compute rows of a table, instead of training: one folder, resumable.

FOLDER/study.json    which study of which size, and what its chunks were asked for
FOLDER/rows.csv      what has been computed; a chunk is there as a whole or not at all
FOLDER/summary.csv   numbers of the tables, in full
FOLDER/summary.md    the tables
FOLDER/figure.svg    with matplotlib only
FOLDER/.lock         held by the process that computes
"""

from __future__ import annotations

import argparse
import csv
import fcntl
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from jopt.errors import ConfigError, DataError, WorkdirInUseError, print_error
from jopt.reporting import csv_text, has_matplotlib, read_json, write_json, write_text
from jopt.training._run_folder import LOCK
from jopt.training._signals import (
    EXIT_DONE,
    EXIT_FAILURE,
    EXIT_PREEMPTED,
    EXIT_USAGE,
    StopSignals,
)

INDEX, ROWS = "study.json", "rows.csv"
CHUNK = "chunk"

Row = dict[str, Any]


class Summary(NamedTuple):
    """What a study says in the end.

    Attributes:
        text: Markdown.
        rows: the numbers behind it, all with the same keys.
        draw: writes the figure to a path.
        more: writes further files into the folder.
    """

    text: str
    rows: list[Row]
    draw: Callable[[Path], None]
    more: Callable[[Path], None] = lambda folder: None


class Experiment(NamedTuple):
    """A study as three pure functions, and a fourth that may leave more files.

    Attributes:
        chunks: size -> name of a chunk -> what `compute` needs, the same every time.
        compute: of one chunk -> its rows, all with the same keys.
        summarize: of all rows, as text, ordered as the chunks.
        leave: of size and folder, in the end; writes further files and returns a line
            about them.
        label: what the default folder is named by besides; of a study whose flags ask
            for other chunks of the same names.
    """

    chunks: Callable[[str], Mapping[str, Any]]
    compute: Callable[[Any], list[Row]]
    summarize: Callable[[list[Row]], Summary]
    leave: Callable[[str, Path], str] | None = None
    label: str = ""


def main(experiment: Experiment, name: str, size: str, argv: Sequence[str]) -> int:
    """Runs an experiment, or goes on with it; returns the exit code.

    What was computed for chunks that are not asked for now stays in the folder.
    """
    usual = "-".join(filter(None, (name, experiment.label, size)))
    options = _parser(name, usual).parse_args(argv)
    folder = options.workdir or Path("runs") / usual
    chunks = experiment.chunks(size)
    if options.dry_run:
        print(f"{folder}: {len(chunks)} chunks: {', '.join(chunks)}")
        return EXIT_DONE
    try:
        with StopSignals() as signals, _held(folder, name, size, chunks):
            rows = _rows(experiment, folder, chunks, signals)
            if rows is None:
                return EXIT_PREEMPTED
            _write(experiment.summarize(rows), folder)
            if experiment.leave is not None:
                print(experiment.leave(size, folder))
    except ConfigError as error:
        print_error(error)
        return EXIT_USAGE
    except (DataError, OSError, WorkdirInUseError) as error:
        print_error(error)
        return EXIT_FAILURE
    return EXIT_DONE


def _parser(name: str, usual: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m jopt study {name}",
        description="The same command again goes on where it stopped.",
        allow_abbrev=False,
    )
    parser.add_argument("--workdir", type=Path, help=f"runs/{usual}")
    parser.add_argument("--dry_run", action="store_true", help="compute nothing")
    return parser


def _rows(
    experiment: Experiment,
    folder: Path,
    chunks: Mapping[str, Any],
    signals: StopSignals,
) -> list[Row] | None:
    """All rows, computed where they are missing; None after a stop signal."""
    path = folder / ROWS
    found: dict[str, list[Row]] = {}
    for row in _read(path):
        found.setdefault(row[CHUNK], []).append(row)
    for number, (name, settings) in enumerate(chunks.items(), 1):
        if name in found:
            continue
        if signals.received:
            return None
        start = time.monotonic()
        computed = experiment.compute(settings)
        # As they will be read, so that a table is the same after a restart.
        found[name] = [
            {CHUNK: name, **{key: str(value) for key, value in row.items()}}
            for row in computed
        ]
        others = [chunk for chunk in found if chunk not in chunks]
        order = (*chunks, *others)
        done = [row for chunk in order for row in found.get(chunk, ())]
        write_text(path, csv_text(done))
        print(
            f"{number}/{len(chunks)} {name}: {len(computed)} rows, "
            f"{time.monotonic() - start:.1f} s",
            flush=True,
        )
    return [row for chunk in chunks for row in found[chunk]]


def _read(path: Path) -> list[Row]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _write(summary: Summary, folder: Path) -> None:
    write_text(folder / "summary.csv", csv_text(summary.rows))
    write_text(folder / "summary.md", summary.text + "\n")
    print(f"\n{summary.text}\n")
    if has_matplotlib():
        summary.draw(folder / "figure.svg")
    else:
        print("no figure: it needs matplotlib, pip install 'jopt[docs]'; then again")
    summary.more(folder)
    print(f"{folder}: tables in summary.md and summary.csv, all rows in {ROWS}")


@contextmanager
def _held(
    folder: Path, name: str, size: str, chunks: Mapping[str, Any]
) -> Iterator[None]:
    """The folder of this study, held by this process alone.

    Fails: `ConfigError` where it is of something else, or has another chunk of the same
    name; `WorkdirInUseError` where another process computes there.
    """
    there = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if there - {LOCK} and INDEX not in there:
        raise ConfigError(
            f"{folder} is not empty and holds no study (no {INDEX}); choose another "
            "with --workdir=FOLDER"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise WorkdirInUseError(
                f"{folder} is in use by another process; wait for it, stop it, or "
                "choose another with --workdir=FOLDER"
            ) from None
        asked = {"study": name, "size": size, "chunks": _digests(chunks)}
        if (folder / INDEX).exists():
            asked["chunks"] = _with_present(folder, asked)
        write_json(folder / INDEX, asked)
        yield


def _digests(chunks: Mapping[str, Any]) -> dict[str, str]:
    return {
        name: hashlib.sha256(repr(settings).encode()).hexdigest()
        for name, settings in chunks.items()
    }


def _with_present(folder: Path, asked: Mapping[str, Any]) -> dict[str, str]:
    """The chunks of a folder and those that are asked for now."""
    present = read_json(folder / INDEX)
    chunks: dict[str, str] | None = present.get("chunks")
    same = all(present.get(key) == asked[key] for key in ("study", "size"))
    if not same or chunks is None:
        raise ConfigError(
            f"{folder} holds study {present.get('study')} of size "
            f"{present.get('size')}, or another version of it; choose another "
            "with --workdir=FOLDER"
        )
    for name, digest in asked["chunks"].items():
        if chunks.get(name, digest) != digest:
            raise ConfigError(
                f"{folder} has {name!r} with other settings than these flags ask for; "
                "choose another with --workdir=FOLDER"
            )
    return {**chunks, **asked["chunks"]}
