"""The whole training step, beside the same model in eager PyTorch.

  python benchmarks/train_step.py --peer-python=VENV/bin/python
  python benchmarks/train_step.py --peer-python=... --dtype=bfloat16 --threads=2
  python benchmarks/train_step.py --peer-python=... --check     # is it the same model?
  python benchmarks/train_step.py --peer-python=... --profile   # where the time goes

The peer needs an environment of its own with `torch` (CPU) in it. Both sides train the
byte language model of `configs/muon_lm.py` and `configs/adamw_lm.py`: the same shapes,
the same optimizer settings, float32 parameters, and bfloat16 as a user of each would
have it (`train.compute_dtype`, autocast). Tokens are random bytes: the time of a step
does not depend on them.

Each case (type, threads, optimizer) has a fresh process on each side, started one after
the other. Then they take turns, `--steps` steps each, for `--rounds` rounds; the one
that waits sleeps. With `--threads=1` both are pinned to one and the same core before
any library is imported. Columns:

  ms/step     wall clock, median of the rounds (smallest); host work included
  cpu ms      processor time of all threads; on a busy machine the steadier figure
  ratio       jopt over torch, of the medians (of single rounds: smallest-largest)
  update ms   the optimizer alone on fixed gradients, and its share of the step
  compile s   tracing, lowering and compiling the step, with a cold cache
  first s     process start until the first step is done, imports included

The peer takes the faster of two forms of attention, tried out after its first step, and
the table says which. jopt's step also computes its accuracy and three global norms;
torch's returns the loss.

Two threads need an idle machine. When another process wants a core, torch's threads
wait for each other and its step took up to ten times as long; one thread and the
column of processor time keep their meaning.

`--check` copies perturbed float32 parameters to the peer. Loss and every gradient's
norm must agree to 1e-4 in float32 and 5e-2 in bfloat16, relative.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from _tables import milliseconds, ratio
from _turns import Spent, Timing, asked, in_turns
from _workers import Worker, WorkerError

from jopt.reporting import markdown_table

HERE = Path(__file__).parent
PEER_HINT = """\
the comparison needs PyTorch in an environment of its own:
  python -m venv peer && peer/bin/pip install torch numpy
  python benchmarks/train_step.py --peer-python=peer/bin/python"""
TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2}
PAUSE_SECS = 0.02  # for the other side's threads to fall asleep
STEP = ("step", "update")
# What `--profile` times: name, and how it reads in the table.
PIECES = {
    "forward": "forward",
    "gradient": "forward + backward",
    "step": "whole step",
    "update": "optimizer alone",
    "attention": "attention, one layer, both ways",
    "mlp": "MLP, one layer, both ways",
    "head": "head + loss, both ways",
}
MODEL_KEYS = ("num_layers", "embed_dim", "num_heads", "seq_len", "batch_size")
# Options that replace a size's own numbers.
OVERRIDES = {
    "layers": "model.num_layers",
    "dim": "model.embed_dim",
    "heads": "model.num_heads",
    "seq_len": "data.seq_len",
    "batch": "train.batch_size",
}


class Case(NamedTuple):
    """What one comparison is about."""

    dtype: str
    threads: int
    optimizer: str

    def __str__(self) -> str:
        return f"{self.dtype}, {self.threads} threads, {self.optimizer}"


class Side(NamedTuple):
    """One side of a case.

    Attributes:
        name: `jopt` or `torch`.
        compile_secs: 0 where nothing is compiled.
        first_secs: from process start to the end of the first step.
        timings: by piece.
    """

    name: str
    compile_secs: float
    first_secs: float
    timings: dict[str, Timing]


class Comparison(NamedTuple):
    """A case measured: the model, versions, the peer's attention, and both sides."""

    case: Case
    model: dict[str, int]
    versions: dict[str, str]
    attention: str
    jopt: Side
    torch: Side


class Pair:
    """Both sides of a case, each with one step done. Leaving `with` ends them."""

    def __init__(self, case: Case, options: argparse.Namespace) -> None:
        self._stack = ExitStack()
        try:
            self._start(case, options)
        except BaseException:
            self._stack.close()
            raise

    def _start(self, case: Case, options: argparse.Namespace) -> None:
        overrides = {
            key: value
            for name, key in OVERRIDES.items()
            if (value := getattr(options, name)) is not None
        }
        overrides["train.compute_dtype"] = case.dtype
        jopt_first = self._first_step(
            [sys.executable, str(HERE / "_jopt_side.py"), str(case.threads)],
            optimizer=case.optimizer,
            size=options.size,
            overrides=overrides,
        )
        self.jopt, built, self.compile_secs, self.jopt_first_secs = jopt_first
        self.model = {key: built["dims"][key] for key in MODEL_KEYS}
        self.torch, _, _, self.torch_first_secs = self._first_step(
            [options.peer_python, str(HERE / "_peer_torch.py"), str(case.threads)],
            **built,
        )
        self.attention = self.torch.ask("choose_attention", choice=options.attention)

    def _first_step(
        self, command: list[str], **arguments: Any
    ) -> tuple[Worker, Any, float, float]:
        begin = time.perf_counter()
        worker = self._stack.enter_context(Worker(command, side_environment()))
        built = worker.ask("build", **arguments)
        compile_secs = worker.ask("prepare", piece="step")
        return worker, built, compile_secs, time.perf_counter() - begin

    def compare(
        self, pieces: Sequence[str], rounds: int, steps: int
    ) -> tuple[Side, Side]:
        """Times pieces on both sides in turns."""
        for worker in (self.jopt, self.torch):
            for piece in pieces:
                if piece != "step":
                    worker.ask("prepare", piece=piece)
        workers = {"jopt": self.jopt, "torch": self.torch}

        def measure(case: tuple[str, str]) -> Spent:
            piece, side = case
            time.sleep(PAUSE_SECS)
            return asked(workers[side].ask("time", piece=piece, count=steps))

        cases = [(piece, side) for piece in pieces for side in workers]
        timings = in_turns(cases, rounds, measure)
        jopt, torch = (
            {piece: timings[piece, side] for piece in pieces} for side in workers
        )
        return (
            Side("jopt", self.compile_secs, self.jopt_first_secs, jopt),
            Side("torch", 0.0, self.torch_first_secs, torch),
        )

    def versions(self) -> dict[str, str]:
        """Of the libraries on both sides, and the XLA flags in force."""
        return {**self.torch.ask("versions"), **self.jopt.ask("versions")}

    def losses_and_norms(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Loss and gradient norms of both sides at the same parameters."""
        arrays = self.jopt.ask_arrays("parameters")
        ours = self.jopt.ask("loss_and_norms")
        return ours, self.torch.ask("loss_and_norms", arrays)

    def __enter__(self) -> Pair:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def side_environment() -> dict[str, str]:
    """The environment of both sides: jopt importable, no persistent XLA cache."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("JAX_COMPILATION_")}
    paths = [str(HERE.parent), *filter(None, [env.get("PYTHONPATH")])]
    return {**env, "PYTHONPATH": os.pathsep.join(paths)}


def step_rows(found: Comparison) -> list[list[str]]:
    """Two rows of the main table."""
    case, jopt, torch = found.case, found.jopt, found.torch
    tokens = found.model["batch_size"] * found.model["seq_len"]
    rows = []
    for side in (jopt, torch):
        step, update = side.timings["step"], side.timings["update"]
        secs = statistics.median(step.wall)
        update_secs = statistics.median(update.wall)
        versus = step.wall, torch.timings["step"].wall
        rows.append(
            [
                case.dtype,
                str(case.threads),
                case.optimizer,
                "jopt" if side is jopt else f"torch, {found.attention}",
                milliseconds(step.wall),
                f"{1e3 * statistics.median(step.cpu):.1f}",
                f"{tokens / secs:,.0f}",
                str(ratio(*versus)) if side is jopt else "-",
                f"{1e3 * update_secs:.1f} ({update_secs / secs:.0%})",
                f"{side.compile_secs:.1f}" if side.compile_secs else "-",
                f"{side.first_secs:.1f}",
            ]
        )
    return rows


STEP_HEADER = (
    "dtype",
    "threads",
    "optimizer",
    "side",
    "ms/step",
    "cpu ms",
    "tokens/s",
    "ratio",
    "update ms",
    "compile s",
    "first s",
)


def profile_rows(found: Comparison) -> list[list[str]]:
    """A row for each piece."""
    case, jopt, torch = found.case, found.jopt, found.torch
    rows = []
    for piece, words in PIECES.items():
        ours, theirs = jopt.timings[piece], torch.timings[piece]
        rows.append(
            [
                case.dtype,
                str(case.threads),
                words,
                milliseconds(ours.wall),
                milliseconds(theirs.wall),
                str(ratio(ours.wall, theirs.wall)),
                f"{statistics.median(ours.cpu) / statistics.median(theirs.cpu):.2f}",
                found.attention,
            ]
        )
    return rows


PROFILE_HEADER = (
    "dtype",
    "threads",
    "piece",
    "jopt ms",
    "torch ms",
    "ratio",
    "cpu ratio",
    "torch's attention",
)


def measure(
    cases: Sequence[Case], pieces: Sequence[str], options: argparse.Namespace
) -> Iterator[Comparison]:
    """Times the pieces in every case, and says on standard error which is next."""
    for number, case in enumerate(cases, 1):
        print(f"{number}/{len(cases)} {case}", file=sys.stderr, flush=True)
        with Pair(case, options) as pair:
            jopt, torch = pair.compare(pieces, options.rounds, options.steps)
            yield Comparison(
                case, pair.model, pair.versions(), pair.attention, jopt, torch
            )


def run_steps(cases: Sequence[Case], options: argparse.Namespace) -> int:
    """The main table."""
    found = list(measure(cases, STEP, options))
    print(environment(found[0]))
    print(markdown_table(STEP_HEADER, [row for one in found for row in step_rows(one)]))
    return 0


def run_profile(cases: Sequence[Case], options: argparse.Namespace) -> int:
    """The pieces of a step."""
    found = list(measure(cases, tuple(PIECES), options))
    print(f"{environment(found[0])}; optimizer {cases[0].optimizer}")
    rows = [row for one in found for row in profile_rows(one)]
    print(markdown_table(PROFILE_HEADER, rows))
    return 0


def environment(found: Comparison) -> str:
    """One line on what ran: versions, flags, the model."""
    versions = ", ".join(f"{name} {value}" for name, value in found.versions.items())
    model = ", ".join(f"{name} {value}" for name, value in found.model.items())
    return f"{versions}; {model}"


def run_check(cases: Sequence[Case], options: argparse.Namespace) -> int:
    """Whether both sides compute the same model; 1 if they do not."""
    faults = []
    for case in cases:
        with Pair(case, options) as pair:
            ours, theirs = pair.losses_and_norms()
        gaps = dict(gradient_gaps(ours, theirs))
        worst = max(gaps, key=lambda name: gaps[name])
        limit = TOLERANCE[case.dtype]
        print(
            f"{case.dtype}: loss {ours['loss']:.6f} and {theirs['loss']:.6f}, largest "
            f"relative difference {gaps[worst]:.1e} ({worst}), limit {limit:.0e}"
        )
        faults += [name for name, gap in gaps.items() if not gap <= limit]
    print("not the same model" if faults else "both sides compute the same model")
    return 1 if faults else 0


def gradient_gaps(
    ours: dict[str, Any], theirs: dict[str, Any]
) -> Iterator[tuple[str, float]]:
    """Relative differences of the loss and of each gradient's norm."""
    yield "loss", abs(ours["loss"] / theirs["loss"] - 1)
    for name in ours["norms"].keys() | theirs["norms"].keys():
        mine, other = ours["norms"].get(name), theirs["norms"].get(name)
        known = mine is not None and other
        yield name, abs(mine / other - 1) if known else float("inf")


def peer_fault(python: str) -> str | None:
    """Why this python cannot be the peer, or None."""
    try:
        done = subprocess.run(
            [python, "-c", "import torch; torch.optim.Muon"],
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError as error:
        return f"the peer's python cannot be started: {error}"
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return f"{python} has no torch with torch.optim.Muon: {last}"
    return None


def busy_machine(limit: float = 0.5) -> str | None:
    """A warning if others have kept this machine busy for the last minute."""
    load = os.getloadavg()[0]
    if load <= limit:
        return None
    return f"load average {load:.1f}: the figures of two threads will be wrong"


def make_cases(options: argparse.Namespace) -> list[Case]:
    """The cases that the options name; a check or a profile takes one optimizer.

    A check needs no particular number of threads either.
    """
    dtypes = _each(options.dtype, ("float32", "bfloat16"))
    threads = _each(options.threads, ("1", "2"))
    optimizers = _each(options.optimizer, ("muon", "adamw"))
    if options.check:
        threads = threads[:1]
    if options.check or options.profile:
        optimizers = optimizers[:1]
    return [
        Case(dtype, int(count), optimizer)
        for count in threads
        for dtype in dtypes
        for optimizer in optimizers
    ]


def _each(choice: str, known: tuple[str, ...]) -> tuple[str, ...]:
    return known if choice == "both" else (choice,)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options, checked as far as they can be without a side."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--peer-python",
        "--peer_python",
        default=sys.executable,
        metavar="PATH",
        help="a python that has torch; this one by default",
    )
    add("--size", default="tiny", choices=("micro", "tiny", "small"))
    add("--layers", type=_count, help="instead of the size's own, as those that follow")
    add("--dim", type=_count)
    add("--heads", type=_count)
    add("--seq_len", type=_count, help="tokens of a sequence")
    add("--batch", type=_count, help="sequences of a step")
    add("--dtype", default="both", choices=("float32", "bfloat16", "both"))
    add("--threads", default="both", choices=("1", "2", "both"))
    add("--optimizer", default="both", choices=("muon", "adamw", "both"))
    add(
        "--attention",
        default="fastest",
        choices=("fused", "plain", "fastest"),
        help="of the peer: scaled_dot_product_attention, or products and a softmax",
    )
    add("--rounds", type=_count, default=9)
    add("--steps", type=_count, default=5, help="of each side in a round")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--check", action="store_true", help="compare losses, gradients")
    mode.add_argument("--profile", action="store_true", help="time parts of the step")
    return parser.parse_args(argv)


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is below 1")
    return value


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark; 0 done, 1 failure, 2 bad usage or no peer."""
    options = parse(argv)
    fault = peer_fault(options.peer_python)
    if fault:
        print(f"{fault}\n{PEER_HINT}", file=sys.stderr)
        return 2
    if busy := busy_machine():
        print(busy, file=sys.stderr)
    run = run_steps
    if options.check or options.profile:
        run = run_check if options.check else run_profile
    try:
        return run(make_cases(options), options)
    except WorkerError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
