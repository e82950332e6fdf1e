"""1, 2 and 4 simulated devices, data and parameters sharded, train one model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

WORKER = Path(__file__).with_name("worker.py")
MESHES = ("2x1", "1x2", "2x2")  # data x fsdp
pytestmark = pytest.mark.devices


@pytest.fixture
def train(tmp_path, on_devices):
    """What one device finds, and what each of `meshes` does.

    One process for all, which starts only once: a small mesh takes the first of its
    four devices. A `size` of its own is compiled as users have it.
    """

    def run(
        config: str, *flags: str, size: tuple = (), meshes: tuple = MESHES
    ) -> tuple[dict, dict[str, dict]]:
        env = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "0" if size else "1"}
        names = ("1x1", *meshes)
        args = config, tmp_path, ",".join(names), "5,100", *size, *flags
        on_devices(4, WORKER, *args, **env)
        one, *several = (dict(np.load(tmp_path / f"{m}.npz")) for m in names)
        return one, dict(zip(meshes, several, strict=True))

    return run


# Signs amplify rounding, the more the higher the rates are: docs/performance.md has a
# table. At these the comparison has a margin.
GENTLE = (
    "--config.optim.rules.matrix.learning_rate=0.0001",
    "--config.optim.rules.rest.learning_rate=0.001",
)

# The model that `:micro` trains; the quick tests have one that compiles faster.
MICRO = (
    "--config.model.num_layers=2",
    "--config.model.embed_dim=96",
    "--config.data.seq_len=128",
)


@pytest.mark.parametrize(
    ("size", "meshes"),
    [((), MESHES[-1:]), pytest.param(MICRO, MESHES, marks=pytest.mark.slow)],
    ids=["small", "micro"],
)
def test_muon_agrees_on_every_mesh(train, size, meshes):
    one, others = train(
        "configs/muon_lm.py:micro",
        "--config.monitor.every_steps=5",
        "--config.optim.rules.matrix.compute_dtype=float32",
        size=size,
        meshes=meshes,
    )
    layers = [name for name in one if name.startswith("5:layer/")]
    assert len(layers) > 5 * 8
    assert one["losses"][-1] < one["losses"][0] - 1.0, "the model did not learn"
    for mesh, many in others.items():
        np.testing.assert_allclose(many["losses"][-1], one["losses"][-1], rtol=1e-5)
        assert many["cursor"] == one["cursor"] == 800
        # fsdp really splits parameters and optimizer state; data alone splits none.
        assert (many["sharded"] > 0) == mesh.endswith("x2")
        for name in layers:
            np.testing.assert_allclose(many[name], one[name], 1e-3, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(), MICRO], ids=["small", "micro"])
def test_signum_agrees_entry_by_entry(train, size):
    one, others = train("configs/signum_lm.py:micro", *GENTLE, size=size)
    for mesh, many in others.items():
        np.testing.assert_allclose(many["losses"][-1], one["losses"][-1], rtol=1e-5)
        for step, least in ((5, 0.9999), (100, 0.99)):
            assert share_equal(one, many, step) >= least, (mesh, step)


def share_equal(one: dict, many: dict, step: int) -> float:
    """Share of equal entries among the parameters that signum moves."""
    names = [n for n in one if n.startswith(f"{step}:blocks") and "kernel" in n]
    assert names
    # A flipped sign moves an entry by two learning rates, far above rounding.
    equal = [np.isclose(one[n], many[n], rtol=1e-4, atol=1e-6).ravel() for n in names]
    return float(np.concatenate(equal).mean())
