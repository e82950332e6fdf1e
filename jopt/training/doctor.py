"""`python -m jopt doctor`: is this machine ready?"""

from __future__ import annotations

import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from jopt.training._platform import set_compilation_cache, set_xla_flags


def main(argv: Sequence[str]) -> int:
    """Prints versions and devices, runs the checks; 0 when all pass, else 1."""
    if argv:
        print("usage: python -m jopt doctor", file=sys.stderr)
        return 2
    flags = set_xla_flags()
    import jax

    from jopt.parallel import make_mesh
    from jopt.training._platform import compute_dtype
    from jopt.training._run_folder import commit, versions

    cache = set_compilation_cache()
    backend = jax.default_backend()
    facts = {
        "python": platform.python_version(),
        **versions(),
        "commit": commit(),
        "devices": ", ".join(str(device) for device in jax.devices()),
        "default mesh": str(dict(make_mesh().shape)),
        "XLA_FLAGS": " ".join(flags) or "none",
        "compute type": f"{compute_dtype('auto', backend)} (train.compute_dtype=auto)",
        "compile cache": str(cache or "off"),
    }
    for name, value in facts.items():
        print(f"{name:18} {value}")
    print()
    passed = [_passes(name, check) for name, check in _CHECKS.items()]
    return 0 if all(passed) else 1


def _passes(name: str, check: Callable[[], str]) -> bool:
    begin = time.monotonic()
    try:
        found = check()
    except Exception as error:
        # A self-test reports whatever goes wrong, and goes on with the next check.
        print(f"{name:18} FAILED: {type(error).__name__}: {error}")
        return False
    print(f"{name:18} ok: {found} ({time.monotonic() - begin:.1f} s)")
    return True


def _check_polar() -> str:
    """The default engine against an SVD."""
    import jax
    import jax.numpy as jnp

    import jopt

    x_MN = jax.random.normal(jax.random.key(0), (64, 256))
    u, _, vt = jnp.linalg.svd(x_MN, full_matrices=False)
    error = jnp.linalg.norm(jopt.orthogonalize(x_MN) - u @ vt) / 8.0
    if not error < 0.2:
        raise ArithmeticError(f"distance to the polar factor is {error:.3f}, above 0.2")
    return f"distance to the polar factor {error:.3f}"


def _check_corpus() -> str:
    """The plays are there and readable."""
    from jopt import data

    splits = data.load()
    return f"{len(splits.train.tokens):,} bytes to train on"


def _check_training() -> str:
    """A small model learns a repeated sequence, and its state survives a checkpoint."""
    import jax
    import numpy as np

    from jopt.training import presets
    from jopt.training._checkpoints import Checkpoints
    from jopt.training._plan import make_plan, resolve
    from jopt.tree import digest

    config = presets.language_model("micro")
    config.model.num_layers = 1
    config.data.seq_len = 32
    config.optim.order = ("matrix", "rest")
    config.optim.rules.matrix = presets.rule(r"blocks/.*/kernel", "muon", 0.02)
    config.optim.rules.rest = presets.rule(".*", "adamw", 0.01)
    plan = make_plan(resolve(config))
    rows = np.arange(33, dtype=np.int32) + np.arange(8, dtype=np.int32)[:, None]
    batch = plan.put(
        {
            "inputs": rows[:, :-1],
            "targets": rows[:, 1:],
            "mask": np.ones((8, 32), np.float32),
            "domain": np.zeros(8, np.int32),
        }
    )
    state = plan.init()
    losses = []
    for _ in range(20):
        state, metrics = plan.step(state, batch)
        losses.append(float(jax.device_get(metrics["train/loss"])))
    if not losses[-1] < 0.5 * losses[0]:
        raise ArithmeticError(f"the loss went from {losses[0]:.3f} to {losses[-1]:.3f}")
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(Path(folder), keep=1)
        checkpoints.save(20, state)
        restored = checkpoints.restore(20, plan.shapes)
        checkpoints.close()
    if digest(restored) != digest(state):
        raise OSError("a checkpoint was not restored bit for bit")
    return f"loss {losses[0]:.2f} to {losses[-1]:.2f} in 20 steps, checkpoint exact"


_CHECKS = {
    "polar factor": _check_polar,
    "corpus": _check_corpus,
    "training": _check_training,
}
