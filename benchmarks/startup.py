"""What it costs to start: `import jopt`, and `train.py` until its first step.

  python benchmarks/startup.py
  python benchmarks/startup.py --only=import --rounds=21

`import jopt` is timed against `import jax, optax`, each in fresh processes that take
turns, by wall clock from start to exit. The ratio of the medians should stay below
1.15. jopt loads what it names on first use, so the first optimizer is timed as well.

`train.py --config=configs/muon_lm.py:tiny` prints how long after its start the first
training step was done; that figure should stay below 9 s cold and 5 s warm on two
cores. Cold: the folder of JAX's persistent compilation cache is empty. Warm: an earlier
run has filled it; no such row where the cache is not in use (`jopt.training._platform`
says where).
In both cases the corpus is prepared, the bytecode of all modules is there, and the
files have been read before. The run is killed once it has printed its figure.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from _tables import Ratio, ratio

from jopt.reporting import markdown_table

ROOT = Path(__file__).parents[1]
IMPORT_BOUND = 1.15  # of the ratio
STEP_BOUNDS = {"cold": 9.0, "warm": 5.0}  # seconds
FIRST_STEP = re.compile(r"first step after (\d+(?:\.\d+)?) s")
BASELINE, OURS = "import jax, optax", "import jopt"
FIRST_USE = "from jopt import muon"


class StartError(RuntimeError):
    """A process that did not do what was timed."""


def import_secs(
    rounds: int, statements: Sequence[str], env: Mapping[str, str]
) -> list[list[float]]:
    """Seconds of a process for each statement, in turns; the first round is dropped."""
    timings: list[list[float]] = [[] for _ in statements]
    for number in range(rounds + 1):
        for statement, secs in zip(statements, timings, strict=True):
            begin = time.perf_counter()
            _run([sys.executable, "-c", statement], env)
            if number:
                secs.append(time.perf_counter() - begin)
    return timings


def first_step_secs(output: str) -> float | None:
    """The figure in the output of `train.py`, or None before it is there.

    >>> first_step_secs("first step after 4.2 s")
    4.2
    """
    found = FIRST_STEP.search(output)
    return float(found.group(1)) if found else None


def start_training(flags: Sequence[str], env: Mapping[str, str]) -> float:
    """Starts `train.py` and kills it after its first step; seconds as it printed them.

    Fails: `StartError` with the whole output if the line never comes.
    """
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [sys.executable, "train.py", *flags, f"--workdir={folder}/run"],
            cwd=ROOT,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        output = []
        try:
            for line in process.stdout:
                output.append(line)
                secs = first_step_secs(line)
                if secs is not None:
                    return secs
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
    raise StartError(f"train.py printed no first step:\n{''.join(output)}")


def training_secs(rounds: int, config: str, cache: Path) -> dict[str, list[float]]:
    """Seconds to the first step, cold and warm in turns; cold alone without a cache."""
    env = own_environment(os.environ, cache)
    _run([sys.executable, "-c", "from jopt.data import load; load()"], env)
    flags = [
        f"--config={config}",
        "--config.train.steps=2",
        "--config.eval.sample_tokens=0",
    ]
    start_training(flags, env)  # bytecode and files into memory
    kinds = ("cold", "warm") if _has_entries(cache / "xla") else ("cold",)
    timings: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(rounds):
        shutil.rmtree(cache / "xla", ignore_errors=True)
        for name in kinds:
            timings[name].append(start_training(flags, env))
    return timings


def _has_entries(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def own_environment(env: Mapping[str, str], cache: Path) -> dict[str, str]:
    """The caller's environment with caches of our own, bytecode among them."""
    not_ours = ("JAX_COMPILATION_", "PYTHONDONTWRITEBYTECODE")
    return {
        **{k: v for k, v in env.items() if not k.startswith(not_ours)},
        "JOPT_CACHE_DIR": str(cache),
        "PYTHONPATH": _import_path(env),
        "PYTHONPYCACHEPREFIX": str(cache / "bytecode"),
    }


def _import_path(env: Mapping[str, str]) -> str:
    return os.pathsep.join([str(ROOT), *filter(None, [env.get("PYTHONPATH")])])


def _run(command: Sequence[str], env: Mapping[str, str]) -> None:
    done = subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise StartError(f"{' '.join(command)} failed:\n{done.stderr}")


def import_rows(
    baseline: Sequence[float], ours: Sequence[float], first_use: Sequence[float]
) -> list[list[str]]:
    """The rows of the import comparison."""
    found, used = ratio(ours, baseline), ratio(first_use, baseline)
    return [
        [f"{BASELINE} (s)", *_seconds(baseline), "-", "-"],
        [f"{OURS} (s)", *_seconds(ours), "-", "-"],
        ["ratio", *_ratio(found), *verdict(found.medians, IMPORT_BOUND)],
        [f"{FIRST_USE} (s)", *_seconds(first_use), "-", "-"],
        ["ratio", *_ratio(used), "-", "-"],
    ]


def training_rows(timings: Mapping[str, Sequence[float]]) -> list[list[str]]:
    """The rows of the training start."""
    return [
        [
            f"first step, {name} (s)",
            *_seconds(secs),
            *verdict(statistics.median(secs), STEP_BOUNDS[name]),
        ]
        for name, secs in timings.items()
    ]


def verdict(value: float, bound: float) -> tuple[str, str]:
    """A bound, and whether a figure keeps it.

    >>> verdict(1.0, 1.15), verdict(9.5, 9.0)
    (('1.15', 'within'), ('9', 'ABOVE'))
    """
    return f"{bound:g}", "within" if value <= bound else "ABOVE"


def _seconds(secs: Sequence[float]) -> list[str]:
    return [f"{statistics.median(secs):.2f}", f"{min(secs):.2f}-{max(secs):.2f}"]


def _ratio(found: Ratio) -> tuple[str, str]:
    return f"{found.medians:.3f}", f"{found.low:.2f}-{found.high:.2f}"


HEADER = ("start", "median", "range", "bound", "verdict")


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=("import", "training"))
    parser.add_argument("--rounds", type=int, default=11, help="of the imports")
    parser.add_argument("--starts", type=int, default=3, help="of train.py, each kind")
    parser.add_argument("--config", default="configs/muon_lm.py:tiny")
    options = parser.parse_args(argv)
    if options.rounds < 1 or options.starts < 1:
        parser.error("--rounds and --starts must be at least 1")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark; 0 done, 1 if something did not start."""
    options = parse(argv)
    rows: list[list[str]] = []
    try:
        with tempfile.TemporaryDirectory() as folder:
            cache = Path(folder)
            if options.only != "training":
                env = own_environment(os.environ, cache)
                statements = (BASELINE, OURS, FIRST_USE)
                rows += import_rows(*import_secs(options.rounds, statements, env))
            if options.only != "import":
                found = training_secs(options.starts, options.config, cache)
                rows += training_rows(found)
    except StartError as error:
        print(error, file=sys.stderr)
        return 1
    print(markdown_table(HEADER, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
