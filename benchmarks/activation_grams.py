"""What activation Grams cost: the gradient of a language model with and without them.

  python benchmarks/activation_grams.py
  python benchmarks/activation_grams.py --size=tiny --threads=1 --accumulation=4

The gradient of `configs/muon_lm.py` as the step takes it, in four forms:

  none      no Grams
  not due   Grams in the program, of every weight but the embedding; not due
  due       the same program, due
  embedding due, that of the token ids as well

All are in one process and take turns. Columns: wall-clock and processor milliseconds
(median of the rounds), processor time over `none`, and what is left of the difference
where every 10th or 20th step is due, in percent of `none`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from typing import Any

from _turns import Timing, in_turns, spent
from _workers import use_cores

FORMS = ("none", "not due", "due", "embedding")
HEADER = ("form", "ms", "cpu ms", "ratio", "every 10", "every 20")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--size", default="micro", choices=("micro", "tiny", "small"))
    parser.add_argument("--accumulation", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, choices=(1, 2), default=2)
    return parser.parse_args(argv)


def programs(size: str, accumulation: int) -> dict[str, Callable[[], Any]]:
    """Each form as a function that computes one gradient and waits for it."""
    import jax

    from jopt.training._flags import parse as read
    from jopt.training._grams import choose_grams
    from jopt.training._oracles import value_and_grad
    from jopt.training._plan import make_plan, resolve

    flags = [
        f"--config=configs/muon_lm.py:{size}",
        f"--config.train.accumulation={accumulation}",
    ]
    plan = make_plan(resolve(read(flags).config))
    state = plan.init()
    rows, length = plan.config.train.batch_size, plan.config.data.seq_len
    ids = jax.random.randint(jax.random.key(0), (rows, length), 0, 256)
    batch = {"inputs": ids, "targets": ids, "mask": ids * 0.0 + 1.0}

    def form(grams: Any, due: bool) -> Callable[[], Any]:
        taps = () if grams is None else grams.taps
        oracle = value_and_grad(
            plan.task.objective(plan.model, taps=taps),
            accumulation=accumulation,
            grams=grams,
        )

        @jax.jit
        def run(params: Any, batch: Any, due: Any) -> Any:
            found, _ = oracle.apply({}, params, {}, batch, jax.random.key(0), due)
            return found.grads, found.activation_grams

        return lambda: jax.block_until_ready(run(state.params, batch, due))

    example, paths = plan.task.example_batch(plan.config), plan.model.taps
    hidden = choose_grams(plan.model, example, paths)
    everything = choose_grams(plan.model, example, paths, token_grams=True)
    print(f"Grams: {hidden.flops(rows * length) / 1e9:.3f} GFLOP of {rows} x {length}")
    return dict(
        zip(
            FORMS,
            (
                form(None, False),
                form(hidden, False),
                form(hidden, True),
                form(everything, True),
            ),
            strict=True,
        )
    )


def measure(
    runs: dict[str, Callable[[], Any]], rounds: int, calls: int = 5
) -> dict[str, Timing]:
    """Seconds of wall clock and of the processor, per form and round."""
    return in_turns(list(runs), rounds, lambda name: spent(runs[name], calls))


def rows(found: dict[str, Timing]) -> list[list[str]]:
    """The table: medians, and what a measurement costs where it is rare.

    >>> short, long = Timing([0.01], [0.01]), Timing([0.015], [0.015])
    >>> timings = {"none": short, "not due": short, "due": long, "embedding": long}
    >>> rows(timings)[2]
    ['due', '15.0', '15.0', '1.500', '5.0 %', '2.5 %']
    """
    median = {
        name: [1000 * statistics.median(secs) for secs in timing]
        for name, timing in found.items()
    }
    none, idle = median["none"][1], median["not due"][1]
    table = []
    for name, (wall, cpu) in median.items():
        shares = ["-", "-"]
        if name in ("due", "embedding"):
            mixed = [(cpu + (n - 1) * idle) / n - none for n in (10, 20)]
            shares = [f"{100 * extra / none:.1f} %" for extra in mixed]
        table.append([name, f"{wall:.1f}", f"{cpu:.1f}", f"{cpu / none:.3f}", *shares])
    return table


def main(argv: Sequence[str]) -> int:
    args = parse(argv)
    use_cores(args.threads)
    from jopt.reporting import markdown_table
    from jopt.training._platform import set_xla_flags

    set_xla_flags()  # before JAX can ask for a device
    runs = programs(args.size, args.accumulation)
    print(markdown_table(HEADER, rows(measure(runs, args.rounds))))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
