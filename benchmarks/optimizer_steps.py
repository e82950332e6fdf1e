"""The whole training step with one optimizer beside the same step with another.

  python benchmarks/optimizer_steps.py
  python benchmarks/optimizer_steps.py --optimizers=adamw,muon,sgd --batch=16 --rounds=9

The steps are those of `configs/<optimizer>_lm.py`, all in one process and pinned to one
core (`--threads=1`), in turns, on random bytes. The first optimizer is what the others
are compared with.

  ms/step      processor time of a step, median of the rounds (smallest); wall clock
               with two threads
  of the first over the first optimizer, of the medians (of single rounds:
               smallest-largest)
  update ms    the optimizer alone on fixed gradients
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from _options import add_timing, at_least_one
from _tables import milliseconds, percent, ratio
from _turns import asked, in_turns
from _workers import use_cores

PIECES = ("step", "update")


def overrides(options: argparse.Namespace) -> dict[str, object]:
    """What the options say of the model and its batch, by config key."""
    return {
        "model.num_layers": options.layers,
        "model.embed_dim": options.dim,
        "model.num_heads": options.heads,
        "data.seq_len": options.seq_len,
        "train.batch_size": options.batch,
        "train.compute_dtype": options.dtype,
    }


def measured(options: argparse.Namespace) -> dict[tuple[str, str], list[float]]:
    """Seconds of one execution, round by round, by optimizer and piece."""
    from _jopt_side import JoptSide

    sides = {name: JoptSide() for name in options.optimizers}
    for name, side in sides.items():
        side.build(name, "tiny", overrides(options))
        for piece in PIECES:
            side.prepare(piece)
    timings = in_turns(
        [(name, piece) for piece in PIECES for name in sides],
        options.rounds,
        lambda case: asked(sides[case[0]].time(case[1], options.steps)),
    )
    return {case: timing.by(options.threads) for case, timing in timings.items()}


def rows(
    timings: dict[tuple[str, str], list[float]], optimizers: Sequence[str]
) -> list[list[str]]:
    """A row for each optimizer."""
    first = timings[optimizers[0], "step"]
    return [
        [
            name,
            milliseconds(timings[name, "step"]),
            "-"
            if name == optimizers[0]
            else percent(ratio(timings[name, "step"], first)),
            milliseconds(timings[name, "update"]),
        ]
        for name in optimizers
    ]


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--optimizers",
        type=lambda text: tuple(text.split(",")),
        default=("adamw", "muon"),
        metavar="NAME,...",
    )
    for name, default in (
        ("layers", 4),
        ("dim", 256),
        ("heads", 4),
        ("seq_len", 256),
        ("batch", 32),
    ):
        parser.add_argument(f"--{name}", type=at_least_one, default=default)
    parser.add_argument("--dtype", default="bfloat16", choices=("float32", "bfloat16"))
    parser.add_argument("--steps", type=at_least_one, default=2, help="in a round")
    add_timing(parser, rounds=9, threads=1)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Times the steps and prints the table."""
    options = parse(argv)
    use_cores(options.threads)
    timings = measured(options)

    import jax

    from jopt.reporting import markdown_table

    print(
        f"JAX {jax.__version__}, {options.dtype}, {options.layers} x {options.dim}, "
        f"{options.batch} x {options.seq_len} tokens, threads {options.threads}"
    )
    first = options.optimizers[0]
    header = ("optimizer", "ms/step", f"of {first}", "update ms")
    print(markdown_table(header, rows(timings, options.optimizers)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
