"""What each optimizer's update costs beside Muon's, and what its state holds.

  python benchmarks/methods.py
  python benchmarks/methods.py --tree=gpt2s4 --rounds=3 --methods=muon,soap

Every method of `jopt.training.methods` that needs nothing but gradients, as a rule
makes it, on the matrices of a tree (`_update_trees`) and nothing else, float32
parameters and fixed float32 gradients, all in one process that takes turns, pinned to
one core. For the others, which measure noise or activations, there is
`benchmarks/criteria.py`.

  ms             processor time of one update, median of the rounds (smallest)
  of muon        over `muon`, of the medians (of single rounds: smallest-largest)
  state bytes    bytes of state for each parameter
  temp MB        what the compiled program allocates for itself
  compile s      tracing, lowering and compiling, with a cold cache

A method that works only in some steps (a turn of SOAP's bases, the spectral steps of
LionMuon) costs what it does on average: rounds have as many updates as its cycle.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence

from _tables import milliseconds, percent, ratio
from _turns import in_turns, spent
from _update_trees import WIDTHS
from _workers import use_cores

# Updates until everything has happened once.
CYCLES = {"soap": 10, "lion_muon": 2, "sign_muon": 2}
HEADER = ("method", "ms", "of muon", "state bytes", "temp MB", "compile s")


def prepared(method: str, tree: str) -> tuple[Callable[[], None], list[str]]:
    """A function that makes one cycle of updates, and the last columns of its row."""
    import jax
    import optax
    from _update_jax import is_matrix, random_tree

    from jopt.optimizers import build
    from jopt.training.methods import method_rule
    from jopt.tree import count, size_bytes

    params, grads = (
        {path: x for path, x in random_tree(tree, seed).items() if is_matrix(path)}
        for seed in (0, 1)
    )
    rules = {"all": method_rule(method, ".*", {method: 0.01})}
    tx = build({"optim": {"order": ("all",), "rules": rules}}, params).tx

    def update(params: dict, state: object, grads: dict) -> tuple[dict, object]:
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state = jax.jit(tx.init)(params)
    columns = [f"{size_bytes(state) / count(params):.2f}"]
    begin = time.perf_counter()
    step = jax.jit(update, donate_argnums=(0, 1)).lower(params, state, grads).compile()
    secs = time.perf_counter() - begin
    columns += [f"{step.memory_analysis().temp_size_in_bytes / 1e6:.0f}", f"{secs:.1f}"]

    def cycle() -> None:
        nonlocal params, state
        for _ in range(CYCLES.get(method, 1)):
            params, state = step(params, state, grads)
            jax.block_until_ready(params)

    cycle()
    return cycle, columns


def from_gradients() -> list[str]:
    """The methods that no other argument of an update is given to."""
    from jopt.optimizers import CATALOG
    from jopt.training.methods import METHODS

    return [
        name
        for name, method in METHODS.items()
        if method.optimizer not in CATALOG
        or not CATALOG[method.optimizer].needs_of(method.options)
    ]


def measured(
    cycles: dict[str, Callable[[], None]], rounds: int
) -> dict[str, list[float]]:
    """Seconds of one update by method, round by round; they take turns."""
    timings = in_turns(
        list(cycles), rounds, lambda method: spent(cycles[method]), warm_up=0
    )
    return {
        method: [secs / CYCLES.get(method, 1) for secs in timing.cpu]
        for method, timing in timings.items()
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table; 0 done, 2 bad usage."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tree", default="d256", choices=tuple(WIDTHS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--methods", help="some of them, `muon` among them")
    options = parser.parse_args(argv)
    use_cores(1)

    from jopt.reporting import markdown_table

    known = from_gradients()
    methods = options.methods.split(",") if options.methods else known
    if options.rounds < 1 or "muon" not in methods or not {*known} >= {*methods}:
        parser.error(f"--rounds is 1 or more, --methods has muon and is among {known}")
    cycles, columns = {}, {}
    for method in methods:
        cycles[method], columns[method] = prepared(method, options.tree)
    timings = measured(cycles, options.rounds)
    rows = [
        [
            method,
            milliseconds(secs),
            percent(ratio(secs, timings["muon"])),
            *columns[method],
        ]
        for method, secs in timings.items()
    ]
    print(markdown_table(HEADER, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
