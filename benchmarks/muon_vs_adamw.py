"""Does Muon beat AdamW and Signum on the plays, with equal tuning on all sides?

  python benchmarks/muon_vs_adamw.py --tune_size=micro --size=tiny --trials=8

Each optimizer gets the same number of quasi-random trials (Halton points over its own
search space, seed 0); the best of each, by validation bits per byte, runs again on
fresh seeds. The paired one-sided t-tests are over those seeds; none was used to tune.
Runs are ordinary run folders: the command again skips what is done. Two runs go at a
time, one thread each, so times here are not those of a run alone.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import csv
import json
import os
import queue
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from scipy import stats

ROOT = Path(__file__).parents[1]
# Key -> bounds, sampled log-uniformly.
SPACES = {
    "muon": {
        "optim.rules.matrix.learning_rate": (0.002, 0.02),
        "optim.rules.rest.learning_rate": (0.003, 0.03),
    },
    "adamw": {
        "optim.rules.matrix.learning_rate": (0.0004, 0.004),
        "optim.rules.rest.learning_rate": (0.003, 0.03),
    },
    "signum": {
        "optim.rules.matrix.learning_rate": (0.0001, 0.001),
        "optim.rules.rest.learning_rate": (0.003, 0.03),
    },
}


def points(name: str, count: int) -> list[dict[str, float]]:
    """The first `count` Halton points of an optimizer's search space."""
    space = SPACES[name]
    unit = stats.qmc.Halton(len(space), scramble=True, rng=0).random(count)
    return [
        {
            key: float(f"{low * (high / low) ** u:.3g}")
            for u, (key, (low, high)) in zip(row, space.items(), strict=True)
        }
        for row in unit
    ]


def run(name: str, size: str, seed: int, values: dict[str, float], cpu: int) -> float:
    """Validation bits per byte of one run, from its folder when it is done already."""
    label = "-".join([f"seed{seed}", *(f"{value:g}" for value in values.values())])
    folder = ROOT / "runs" / "muon_vs_adamw" / size / name / label
    command = [
        sys.executable,
        "train.py",
        f"--config=configs/{name}_lm.py:{size}",
        f"--config.seed={seed}",
        *(f"--config.{key}={value}" for key, value in values.items()),
        "--config.eval.every_steps=0",
        "--config.checkpoint.every_steps=0",
        "--config.eval.sample_tokens=0",
        f"--workdir={folder}",
    ]
    done = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {cpu}),
    )
    status = json.loads((folder / "status.json").read_text())
    if status["state"] == "diverged":
        return float("inf")
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return status["result"]["eval/bits_per_byte"]


def run_all(jobs: Sequence[tuple], size: str) -> list[float]:
    """All jobs, one at a time on each core that this process may use."""
    cpus: queue.Queue[int] = queue.Queue()
    for cpu in sorted(os.sched_getaffinity(0)):
        cpus.put(cpu)

    def one(job: tuple) -> float:
        cpu = cpus.get()
        try:
            name, seed, values = job
            result = run(name, size, seed, values, cpu)
        finally:
            cpus.put(cpu)
        print(f"{name:6} seed {seed} {values}: {result:.4f}", flush=True)
        return result

    with concurrent.futures.ThreadPoolExecutor(cpus.qsize()) as pool:
        return list(pool.map(one, jobs))


def write(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tune_size", default="micro", help="size of the trials")
    parser.add_argument("--size", default="tiny", help="size of the paired seeds")
    parser.add_argument("--trials", type=int, default=8, help="per optimizer")
    parser.add_argument("--seeds", type=int, default=3, help="per optimizer, from 1 on")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "docs/results/language_model"
    )
    args = parser.parse_args()

    trials = [
        (name, 0, values) for name in SPACES for values in points(name, args.trials)
    ]
    found = run_all(trials, args.tune_size)
    write(
        args.out / f"trials-{args.tune_size}.csv",
        [
            {
                "optimizer": name,
                "seed": seed,
                "values": json.dumps(v),
                "bpb": f"{b:.4f}",
            }
            for (name, seed, v), b in zip(trials, found, strict=True)
        ],
    )
    best = {
        name: min(
            (bits, index)
            for index, ((owner, _, _), bits) in enumerate(
                zip(trials, found, strict=True)
            )
            if owner == name
        )[1]
        for name in SPACES
    }
    seeds = range(1, args.seeds + 1)
    jobs = [(name, seed, trials[best[name]][2]) for seed in seeds for name in SPACES]
    bits = run_all(jobs, args.size)
    write(
        args.out / f"seeds-{args.size}.csv",
        [
            {
                "optimizer": name,
                "seed": seed,
                "values": json.dumps(v),
                "bpb": f"{b:.4f}",
            }
            for (name, seed, v), b in zip(jobs, bits, strict=True)
        ],
    )
    report(jobs, bits, args)


def report(
    jobs: Sequence[tuple], bits: Sequence[float], args: argparse.Namespace
) -> None:
    """Means, spread and the paired test, as text."""
    by_name = {
        name: [b for (owner, _, _), b in zip(jobs, bits, strict=True) if owner == name]
        for name in SPACES
    }
    for name, values in by_name.items():
        spread = statistics.stdev(values) if len(values) > 1 else float("nan")
        print(
            f"{name:6} {statistics.mean(values):.4f} +- {spread:.4f} bits/byte "
            f"(n={len(values)} seeds, {args.trials} trials on :{args.tune_size})"
        )
    for other in (name for name in SPACES if name != "muon"):
        test = stats.ttest_rel(by_name["muon"], by_name[other], alternative="less")
        verdict = "is better" if test.pvalue < 0.05 else "is not shown to be better"
        print(
            f"muon {verdict} than {other} on :{args.size} (paired one-sided t-test "
            f"over {args.seeds} seeds: p = {test.pvalue:.2g})"
        )


if __name__ == "__main__":
    main()
