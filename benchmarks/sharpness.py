"""What sharpness costs: steps of the SAM family, smoothness, curvature, beside a step.

  python benchmarks/sharpness.py
  python benchmarks/sharpness.py --task=image --threads=1 --rounds=9
  python benchmarks/sharpness.py --part=pairs

Tasks: `text` is the model of `configs/muon_lm.py:micro` and `text-tiny` that of its
size `tiny`, `image` that of `configs/images.py:cnn,mnist5k`; batches are random, since
the time does not depend on them. All programs of a task are in one process and take
turns of five steps (a period of LookSAM), `--rounds` times, in an order that moves on
by one each round; the first round warms up.

Part `steps`: the training step as `train.py` runs it, SGD under every member, Muon
under that of its own geometry, and the optimizers that set their own step size:

  evals     gradients in a step, forward pass included; of LookSAM a mean
  cpu ms    processor time of all threads, median of the rounds
  of base   its ratio to the step of SGD, or of Muon where the name says so, of the
            medians (of single rounds)
  bound     1.05 x evals x base: `within` or `ABOVE`

Part `pairs`: two gradients at different parameters on one batch, one after the other
and by `vmap`: which is faster, and the temporary memory of both.

Part `curvature`: one firing of `monitor.curvature` with its default settings, and of
its parts; `least` is the number of steps between firings from which on they take at
most 5 % of the time.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from _options import add_timing
from _tables import percent, ratio
from _turns import Timing, in_turns, spent
from _workers import use_cores
from train_step import busy_machine

BOUND = 1.05
SHARE = 0.05
CALLS = 5
CONFIGS = {
    "text": "configs/muon_lm.py:micro",
    "text-tiny": "configs/muon_lm.py:tiny",
    "image": "configs/images.py:cnn,mnist5k",
}
PARTS = ("steps", "pairs", "curvature")


class Form(NamedTuple):
    """A training step.

    Attributes:
        evals: gradients in it.
        oracle: settings of it.
        whole: of the one optimizer of all parameters; none for the base.
        base: key of `RULES`; the form of this name is what it is compared with.
    """

    evals: float
    oracle: Mapping[str, Any] = {}
    whole: Mapping[str, Any] = {}
    base: str = "sgd"


# Base -> matched parameters and their optimizer, the first that fits.
RULES = {
    "sgd": {"all": (r".*", "sgd")},
    "muon": {
        "matrix": (r"(blocks|layers)/.*/kernel", "muon"),
        "rest": (r".*", "sgd"),
    },
}
FORMS = {
    "sgd": Form(1),
    "sam": Form(2, {"name": "sam"}),
    "asam": Form(2, {"name": "asam"}),
    "sam, spectral": Form(2, {"name": "sam", "norm": "spectral"}),
    "gsam": Form(2, {"name": "gsam"}),
    "wsam": Form(2, {"name": "wsam"}),
    "f_sam": Form(2, {"name": "f_sam"}),
    "looksam": Form(1 + 1 / 5, {"name": "looksam", "period": 5}),
    "ae_sam, never": Form(1, {"name": "ae_sam", "c_start": 1e9, "c_end": 1e9}),
    "functional_sam": Form(2, {"name": "functional_sam"}),
    "delta_sgd": Form(2, whole={"name": "delta_sgd"}),
    "sa_sam": Form(3, whole={"name": "sa_sam"}),
    "sa_sam, perturbation": Form(
        2, whole={"name": "sa_sam", "smoothness": "perturbation"}
    ),
    "muon": Form(1, base="muon"),
    "muon, sam, spectral": Form(2, {"name": "sam", "norm": "spectral"}, base="muon"),
}
HEADERS = {
    "steps": ("task", "step", "evals", "cpu ms", "of base", "bound"),
    "pairs": ("task", "two gradients", "cpu ms", "ratio", "temp MB"),
    "curvature": ("task", "firing", "cpu ms", "steps", "least"),
}


def make_plan(task: str, form: str) -> Any:
    """The plan of a run of a task in one of `FORMS`."""
    from jopt.training import presets
    from jopt.training._flags import load_config
    from jopt.training._plan import make_plan, resolve

    config = load_config(CONFIGS[task])
    _, oracle, whole, base = FORMS[form]
    config.oracle.update(oracle)
    config.monitor.every_steps = 0
    config.optim.order, config.optim.rules = (), {}
    if whole:
        config.train.schedule.name = "constant"
        config.optim.whole_tree.optimizer.update(whole)
    else:
        config.optim.order = tuple(RULES[base])
        config.optim.rules = {
            name: presets.rule(match, optimizer, 0.01)
            for name, (match, optimizer) in RULES[base].items()
        }
    return make_plan(resolve(config))


def random_batch(plan: Any) -> Any:
    """A batch of the run's size: random numbers, and labels in range."""
    import numpy as np

    rng = np.random.default_rng(0)
    rows = plan.config.train.batch_size

    def filled(name: str, one: Any) -> Any:
        shape = (rows, *one.shape[1:])
        if name == "mask":
            return np.ones(shape, one.dtype)
        if np.issubdtype(one.dtype, np.integer):
            return rng.integers(0, 1 if name == "domain" else 10, shape, one.dtype)
        return rng.standard_normal(shape).astype(one.dtype)

    example = plan.task.example_batch(plan.config)
    return plan.put({name: filled(name, one) for name, one in example.items()})


def step_of(plan: Any) -> Callable[[], None]:
    """One training step after the other, each waited for."""
    import jax

    batch, state = random_batch(plan), plan.init()
    compiled = plan.step.lower(state, batch).compile()

    def run() -> None:
        nonlocal state
        state, metrics = compiled(state, batch)
        jax.block_until_ready(metrics)

    return run


def pair_of(plan: Any) -> dict[str, tuple[Callable[[], None], float]]:
    """Two gradients one after the other and together, and bytes of temporary memory."""
    import jax
    import jax.numpy as jnp

    batch, state = random_batch(plan), plan.init()
    objective = plan.task.objective(plan.model)
    key = jax.random.key(0)

    def gradient(params: Any) -> Any:
        value = lambda p: objective(p, state.model_state, batch, key)[0]  # noqa: E731
        return jax.grad(value)(params)

    other = jax.tree.map(lambda x: x * 1.01, state.params)

    def apart(a: Any, b: Any) -> Any:
        return gradient(a), gradient(b)

    def together(a: Any, b: Any) -> Any:
        return jax.vmap(gradient)(jax.tree.map(lambda *x: jnp.stack(x), a, b))

    found = {}
    for name, fn in (("one after the other", apart), ("vmap", together)):
        compiled = jax.jit(fn).lower(state.params, other).compile()
        memory = compiled.memory_analysis().temp_size_in_bytes

        def run(compiled: Any = compiled) -> None:
            jax.block_until_ready(compiled(state.params, other))

        found[name] = run, memory
    return found


def firings_of(plan: Any) -> dict[str, Callable[[], None]]:
    """A firing of the curvature monitor by what it measures."""
    from jopt.training._curvature import CurvatureMonitor

    source, state = plan.task.load(plan.config), plan.init()
    found = {}
    for what in (("lambda_max",), ("trace",), ("lambda_max", "trace")):
        config = plan.config.monitor.curvature.copy_and_resolve_references()
        with config.unlocked():
            config.what = what
        monitor = CurvatureMonitor(plan, source, config)
        found[" and ".join(what)] = lambda monitor=monitor: monitor.measure(state)
    return found


def measure(
    runs: Mapping[str, Callable[[], Any]], rounds: int, calls: int = CALLS
) -> dict[str, Timing]:
    """Seconds of one call of each, a mean over `calls`, by round."""
    return in_turns(list(runs), rounds, lambda name: spent(runs[name], calls))


def step_rows(task: str, timings: Mapping[str, Timing]) -> list[list[str]]:
    """One row for each form, against the step of its base."""
    table = []
    for name, timing in timings.items():
        form = FORMS[name]
        versus = ratio(timing.cpu, timings[form.base].cpu)
        limit = BOUND * form.evals
        verdict = "within" if versus.medians <= limit else "ABOVE"
        table.append(
            [
                task,
                name,
                f"{form.evals:g}",
                f"{1e3 * statistics.median(timing.cpu):.1f}",
                "-" if name == form.base else percent(versus),
                "-" if name == form.base else f"{limit:.2f} {verdict}",
            ]
        )
    return table


def pair_rows(
    task: str, timings: Mapping[str, Timing], memory: Mapping[str, float]
) -> list[list[str]]:
    """One row for each way to get two gradients."""
    apart = timings["one after the other"]
    return [
        [
            task,
            name,
            f"{1e3 * statistics.median(timing.cpu):.1f}",
            "-" if timing is apart else percent(ratio(timing.cpu, apart.cpu)),
            f"{memory[name] / 1e6:.1f}",
        ]
        for name, timing in timings.items()
    ]


def firing_rows(task: str, timings: Mapping[str, Timing]) -> list[list[str]]:
    """One row for each firing, in steps of SGD on the same task."""
    step = statistics.median(timings["sgd"].cpu)
    table = []
    for name, timing in timings.items():
        if name == "sgd":
            continue
        secs = statistics.median(timing.cpu)
        least = math.ceil(secs / step * (1 - SHARE) / SHARE)
        table.append(
            [task, name, f"{1e3 * secs:.1f}", f"{secs / step:.1f}", f"{least}"]
        )
    return table


def part_rows(part: str, task: str, rounds: int) -> list[list[str]]:
    """The rows of one part for one task."""
    if part == "steps":
        runs = {form: step_of(make_plan(task, form)) for form in FORMS}
        return step_rows(task, measure(runs, rounds))
    plan = make_plan(task, "sgd")
    if part == "pairs":
        pairs = pair_of(plan)
        timings = measure({name: run for name, (run, _) in pairs.items()}, rounds)
        return pair_rows(
            task, timings, {name: size for name, (_, size) in pairs.items()}
        )
    timings = measure({"sgd": step_of(plan), **firings_of(plan)}, rounds, calls=1)
    return firing_rows(task, timings)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--task", default="all", choices=(*CONFIGS, "all"))
    add("--part", default="all", choices=(*PARTS, "all"))
    add_timing(parser, rounds=7)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark; 0 done, 2 bad usage."""
    options = parse(argv)
    use_cores(options.threads)
    if busy := busy_machine():
        print(busy, file=sys.stderr)
    from jopt.training._platform import keep_freed_memory, set_xla_flags

    set_xla_flags()  # before JAX can ask for a device
    keep_freed_memory()
    from jopt.reporting import markdown_table

    for part in PARTS if options.part == "all" else (options.part,):
        table = []
        for task in CONFIGS if options.task == "all" else (options.task,):
            table += part_rows(part, task, options.rounds)
        print(f"\n{part}\n\n{markdown_table(HEADERS[part], table)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
