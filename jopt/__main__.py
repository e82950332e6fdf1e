"""`python -m jopt COMMAND`: the commands of an installed jopt."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence

from jopt.errors import nearest


def _train(argv: Sequence[str]) -> int:
    from jopt.training.main import main

    return main(argv, process_start=_BEGIN)


def _explain(argv: Sequence[str]) -> int:
    from jopt.training.main import main

    if argv and not argv[0].startswith("-"):
        argv = [f"--config={argv[0]}", *argv[1:]]
    return main([*argv, "--dry_run"], process_start=_BEGIN)


def _evaluate(argv: Sequence[str]) -> int:
    from jopt.training.evaluate import main

    return main(argv)


def _report(argv: Sequence[str]) -> int:
    from jopt.reporting.command import main

    return main(argv)


def _watch(argv: Sequence[str]) -> int:
    from jopt.reporting.watch import main

    return main(argv)


def _tail(argv: Sequence[str]) -> int:
    from jopt.reporting.tail import main

    return main(argv)


def _sweep(argv: Sequence[str]) -> int:
    from jopt.studies.sweep import main

    return main(argv)


def _compare(argv: Sequence[str]) -> int:
    from jopt.studies.compare import main

    return main(argv)


def _study(argv: Sequence[str]) -> int:
    from jopt.studies.study import main

    return main(argv)


def _probe(argv: Sequence[str]) -> int:
    from jopt.studies.probe import main

    return main(argv)


def _network(argv: Sequence[str]) -> int:
    from jopt.training.network import main

    return main(argv)


def _merge(argv: Sequence[str]) -> int:
    from jopt.weights.merge import main

    return main(argv)


def _doctor(argv: Sequence[str]) -> int:
    from jopt.training.doctor import main

    return main(argv)


COMMANDS: dict[str, tuple[Callable[[Sequence[str]], int], str]] = {
    "train": (_train, "train a config: --config=FILE[:SIZE] [--config.KEY=VALUE ...]"),
    "explain": (_explain, "CONFIG: what each parameter gets, and what a step costs"),
    "evaluate": (_evaluate, "RUN [--split=test]: bits per byte of a run's checkpoint"),
    "report": (
        _report,
        "RUN... [--together=FILE]: a page for each run, or for all",
    ),
    "watch": (
        _watch,
        "RUN... [--port=0] [--once]: the same page, as runs go on",
    ),
    "tail": (_tail, "RUN [--once]: follow a run that is going on, whoever started it"),
    "sweep": (_sweep, "tune several arms with equal budgets: --config=FILE[:ARG]"),
    "compare": (_compare, "FOLDER...: which arm is better, and how sure is that"),
    "study": (_study, "NAME [--size=smoke|default|full]: a question, and its answer"),
    "probe": (
        _probe,
        "RUN [--criterion=spec_sign] [--audit]: which geometry each layer needs",
    ),
    "network": (
        _network,
        "CONFIG: step time and compute utilisation over bandwidths and sites",
    ),
    "merge": (
        _merge,
        "--config=FILE, or --base B --models A... --out C: one model from several",
    ),
    "doctor": (_doctor, "versions, devices, data, and a self-test of ten seconds"),
}

_BEGIN = time.monotonic()


def main(argv: Sequence[str]) -> int:
    """Runs a command and returns its exit code."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_usage())
        return 0 if argv else 2
    name, *rest = argv
    if name not in COMMANDS:
        close = nearest(name, COMMANDS)
        hint = f"; did you mean {close}?" if close else ""
        print(f"unknown command {name!r}{hint}\n{_usage()}", file=sys.stderr)
        return 2
    return COMMANDS[name][0](rest)


def _usage() -> str:
    lines = [f"  {name:8} {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(["usage: python -m jopt COMMAND [ARGUMENTS]", *lines])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
