"""jit, vmap, pmap and shard_map: the same numbers, the same decision, what is sent."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from jopt import criteria
from jopt.errors import ConfigError

# `svd` compiles faster; the default method is `polar`.
METHODS = ["svd", pytest.param("polar", marks=pytest.mark.slow)]


@pytest.fixture(scope="module", params=METHODS)
def found(on_devices, request):
    script = Path(__file__).with_name("modes_worker.py")
    return json.loads(on_devices(4, script, request.param))


@pytest.mark.devices
def test_modes_agree_and_decide_alike(found):
    assert found["varied"] == 2  # some layers are for sign, some for spectral
    for mode, gap in found["gaps"].items():
        assert gap < 1e-5, mode
        assert found["choices"][mode], mode


@pytest.mark.devices
def test_noise_takes_one_signed_reduction_besides_the_mean(found):
    sent, size = found["sent"], found["bytes"]
    assert sent["mean"] == sent["difference"] == size
    assert sent["both"] == 2 * size
    # The gain has no view: its noise is not needed, and is not sent.
    assert sent["decision"] == 2 * (size - 4 * 5)


@pytest.mark.devices
def test_a_device_can_measure_curvature_of_its_own(found):
    assert found["local"] == [6.0, 12.0, 18.0, 24.0]


@pytest.mark.parametrize("count", [1, 3])
def test_an_odd_number_of_devices_has_no_halves(count):
    with pytest.raises(ConfigError, match="even number of devices"):
        jax.vmap(lambda g: criteria.half_difference(g, "data"), axis_name="data")(
            jnp.ones((count, 2))
        )
