"""`python -m jopt merge`: one model from several, from files to a file."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from jopt.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    ShapeError,
    did_you_mean,
    print_error,
)
from jopt.training._platform import return_freed_memory, set_xla_flags
from jopt.training._signals import EXIT_DONE, EXIT_FAILURE, EXIT_USAGE

_EPILOG = """\
With --config=FILE the keys of a config are set as --config.KEY=VALUE; the flags above
stand for keys of the same name and win. docs/merging_files.md explains them."""


def main(argv: Sequence[str]) -> int:
    """Merges and prints what it found; 2 for what cannot be merged as asked."""
    args, rest = _parser().parse_known_args(argv)
    set_xla_flags()
    return_freed_memory()
    try:
        _run(args, rest)
    except (ConfigError, ShapeError) as error:
        print_error(error)
        return EXIT_USAGE
    except (CheckpointError, DataError, OSError) as error:
        print_error(error)
        return EXIT_FAILURE
    return EXIT_DONE


def _run(args: argparse.Namespace, rest: Sequence[str]) -> None:
    from jopt.weights._merge import merge_files, planned
    from jopt.weights._settings import settings_from
    from jopt.weights._shown import plan_text, report_record, report_text

    settings = settings_from(_config(args, rest))
    # Standard output is the record alone where a program reads it.
    stream = sys.stderr if args.json else sys.stdout

    def say(text: str) -> None:
        print(text, file=stream, flush=True)

    with planned(settings) as plan:
        say(plan_text(settings, plan))
        if args.dry_run:
            return
        report = merge_files(settings, plan, say)
    if args.json:
        print(json.dumps(report_record(settings, report), indent=2))
    else:
        print(report_text(settings, report))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m jopt merge",
        description="Merges fine-tuned models into one: .safetensors files, single or "
        "sharded, runs and Orbax folders, in and out.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--base", metavar="PATH", help="the parameters that all models started from")
    add("--models", nargs="+", metavar="PATH", help="fine-tuned from them")
    add("--weights", nargs="+", type=float, metavar="W", help="one for each; 1")
    add("--method", help="task_arithmetic; ties, average, ...")
    add("--kwargs", nargs="+", metavar="KEY=VALUE", help="arguments of the method")
    add("--scale", type=float, help="of the merged task vector (lambda); 1")
    add("--evaluate", metavar="MODULE:FUNCTION", help="search the scale by this score")
    add("--grid", nargs="+", type=float, metavar="X", help="scales; 0 to 1, 21 of them")
    add("--where", nargs="+", metavar="REGEX", help="paths that are merged; all")
    add("--keep_base", nargs="+", metavar="REGEX", help="paths that are not")
    add("--batch_stats", help="base or average, where there are any")
    add("--names", metavar="FILE", help="JSON list of rules from torch to Flax")
    add("--out_names", help="same (as in the base's file) or flax")
    add("--dtype", help="of merged leaves; the base's")
    add(
        "--out", metavar="PATH", help="X.safetensors, X/model.safetensors.index.json, X"
    )
    add("--json", action="store_true", help="print what was found as JSON")
    add("--dry_run", action="store_true", help="read only headers, write nothing")
    return parser


def _config(args: argparse.Namespace, rest: Sequence[str]) -> Any:
    """The config file with its overrides, or the defaults; then the plain flags."""
    from jopt.training._flags import parse
    from jopt.weights._settings import default_merge

    if any(word.split("=")[0] == "--config" for word in rest):
        line = parse(rest)
        config, rest = line.config, line.rest
    else:
        config = default_merge()
    if rest:
        known = [action.option_strings[0] for action in _parser()._actions]
        hint = did_you_mean(rest[0].split("=")[0], known)
        raise ConfigError(f"unknown argument {rest[0]}{hint}")
    for key in ("base", "method", "scale", "batch_stats", "out_names", "dtype", "out"):
        if getattr(args, key) is not None:
            config[key] = getattr(args, key)
    for key in ("where", "keep_base"):
        if getattr(args, key) is not None:
            config[key] = tuple(getattr(args, key))
    _set_models(config, args)
    if args.kwargs is not None:
        config.kwargs = dict(map(_pair, args.kwargs))
    if args.evaluate is not None:
        config.search.evaluate = args.evaluate
    if args.grid is not None:
        config.search.grid = tuple(args.grid)
    if args.names is not None:
        config.names = _rules(args.names)
    return config


def _set_models(config: Any, args: argparse.Namespace) -> None:
    if args.models is not None:
        config.models = tuple(args.models)
    if args.weights is None:
        return
    paths = [m if isinstance(m, str) else dict(m)["path"] for m in config.models]
    if len(paths) != len(args.weights):
        raise ConfigError(
            f"--weights has {len(args.weights)} numbers for {len(paths)} models"
        )
    config.models = tuple(
        {"path": path, "weight": weight}
        for path, weight in zip(paths, args.weights, strict=True)
    )


def _pair(word: str) -> tuple[str, Any]:
    """`density=0.2` as a name and a value; what is no JSON is text."""
    key, equals, text = word.partition("=")
    if not equals:
        raise ConfigError(f"--kwargs {word}: KEY=VALUE is expected")
    try:
        return key, json.loads(text)
    except ValueError:
        return key, text


def _rules(file: str) -> tuple[dict, ...]:
    try:
        with open(file, encoding="utf-8") as opened:  # noqa: PTH123
            rules = json.load(opened)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"--names {file} is not a readable JSON file: {error}"
        ) from None
    if not isinstance(rules, list):
        raise ConfigError(f"--names {file} holds no list of rules")
    return tuple(rules)
