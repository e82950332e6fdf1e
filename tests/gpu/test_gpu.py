"""What only a GPU can show. `python -m pytest -m gpu` runs these alone.

Without a GPU they are skipped; JOPT_REQUIRE_GPU=1 makes that a failure.
"""

from __future__ import annotations

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jopt

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def gpu():
    if jax.default_backend() == "gpu":
        return
    reason = f"JAX computes on a {jax.default_backend()} here"
    if os.environ.get("JOPT_REQUIRE_GPU") == "1":
        pytest.fail(f"JOPT_REQUIRE_GPU=1, and {reason}")
    pytest.skip(reason)


def test_polar_factor_is_that_of_the_cpu():
    matrix = jax.random.normal(jax.random.key(0), (256, 128))
    found = {}
    for device in (jax.devices()[0], jax.devices("cpu")[0]):
        with jax.default_device(device):
            found[device.platform] = np.asarray(
                jopt.orthogonalize(jax.device_put(matrix, device))
            )
    # Both multiply in float32: tests/conftest.py turns TF32 off.
    np.testing.assert_allclose(found["gpu"], found["cpu"], atol=1e-5)


def test_a_muon_step_has_equal_bits_twice():
    params = {"w": jax.random.normal(jax.random.key(0), (256, 128))}
    grads = {"w": jax.random.normal(jax.random.key(1), (256, 128))}
    tx = jopt.muon(0.02)
    state = tx.init(params)
    first, second = (jax.jit(tx.update)(grads, state, params)[0] for _ in range(2))
    assert bool(jnp.all(first["w"] == second["w"]))


def test_training_has_equal_bits_twice(training):
    """Without jopt's flag sums depend on the order in which threads finish."""
    training.as_shipped = True
    flags = ("--config.train.steps=12", "--config.checkpoint.every_steps=5")
    for name in ("one", "two"):
        done = training.run(*flags, workdir=name)
        assert done.returncode == 0, done.stderr
    assert training.digest("one") == training.digest("two")
