"""`python -m jopt evaluate RUN`: the bits per byte of a checkpoint, on any split."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from jopt.errors import CheckpointError, ConfigError, DataError
from jopt.training._platform import set_compilation_cache, set_xla_flags
from jopt.training._signals import EXIT_DONE, EXIT_FAILURE, EXIT_USAGE

SPLITS = ("validation", "test")


def main(argv: Sequence[str]) -> int:
    """Prints the result of a run's checkpoint; changes nothing in the folder."""
    args = _parser().parse_args(argv)
    try:
        print(_evaluate(args.run, args.split, args.step))
    except ConfigError as error:
        print(f"ConfigError: {error}", file=sys.stderr)
        return EXIT_USAGE
    except (CheckpointError, DataError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return EXIT_FAILURE
    return EXIT_DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m jopt evaluate", description=__doc__.split(": ", 1)[1]
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run")
    parser.add_argument("--split", choices=SPLITS, default="validation")
    parser.add_argument(
        "--step", type=int, help="of a checkpoint; the newest if absent"
    )
    return parser


def _evaluate(run: Path, split: str, step: int | None) -> str:
    set_xla_flags()
    # Imports of a second or more come after the flags, and not for --help.
    import jax

    from jopt.objectives import language_model_sums
    from jopt.training._checkpoints import Checkpoints
    from jopt.training._evaluation import domain_means, means, totals
    from jopt.training._plan import make_plan, resolve
    from jopt.training._run_folder import read_config
    from jopt.training._source import load_source

    config = resolve(read_config(run))
    set_compilation_cache()
    plan = make_plan(config)
    source = load_source(config)
    checkpoints = Checkpoints(run / "checkpoints", read_only=True)
    try:
        step = checkpoints.latest() if step is None else step
        if step not in checkpoints.steps():
            present = ", ".join(map(str, checkpoints.steps())) or "none"
            raise CheckpointError(f"{run} has no checkpoint {step}; present: {present}")
        state = checkpoints.restore(step, plan.shapes)
    finally:
        checkpoints.close()
    domains = source.domain_names
    sums = jax.jit(language_model_sums(plan.model, num_domains=len(domains)))
    found = totals(sums, state, source.evaluation(split, whole=True), plan.put)
    return _table(split, step, means(found), domain_means(found, domains))


def _table(
    split: str,
    step: int,
    result: dict[str, float],
    domains: dict[str, tuple[float, float]],
) -> str:
    lines = [
        f"{split} split at step {step}: {result['eval/bits_per_byte']:.4f} bits/byte, "
        f"accuracy {result['eval/accuracy']:.4f}, {result['eval/tokens']:,.0f} bytes"
    ]
    if len(domains) > 1:
        lines += [
            f"  {name:12} {bits:.4f} bits/byte  {tokens:9,.0f} bytes"
            for name, (bits, tokens) in domains.items()
        ]
    return "\n".join(lines)
