"""One step of a ResNet with BatchNorm on one device and on a mesh of four.

python batch_norm_worker.py
"""

import jax
import numpy as np

from jopt.training import presets
from jopt.training._plan import make_plan, resolve
from jopt.tree import named_leaves


def main() -> None:
    one, four = (step(devices) for devices in (1, 4))
    assert one.keys() == four.keys() and any("norm/mean" in path for path in one)
    for path, leaf in one.items():
        np.testing.assert_allclose(four[path], leaf, rtol=2e-5, atol=2e-6, err_msg=path)
        assert path.startswith("params") or np.ptp(leaf) > 0, path


def step(devices: int) -> dict[str, np.ndarray]:
    """Parameters and statistics after a step on images whose rows differ in scale."""
    config = presets.images("resnet", "digits")
    config.model.update(depths=(1,), width=4)
    config.mesh.data = devices
    config.train.update(batch_size=8, compute_dtype="float32")
    config.monitor.every_steps = 0
    config.optim.order = ("all",)
    config.optim.rules.all = presets.rule(".*", "sgd", 0.1)
    plan = make_plan(resolve(config))
    random = np.random.default_rng(0)
    scale = np.arange(1, 9, dtype=np.float32)[:, None, None, None]
    batch = {
        "inputs": scale * random.normal(size=(8, 8, 8, 1)).astype(np.float32),
        "targets": np.arange(8, dtype=np.int32),
        "mask": np.ones(8, np.float32),
        "domain": np.zeros(8, np.int32),
    }
    state, _ = plan.step(plan.init(), plan.put(batch))
    jax.block_until_ready(state)
    found = {"params": state.params, "model_state": state.model_state}
    return {path: np.asarray(leaf) for path, leaf in named_leaves(found).items()}


if __name__ == "__main__":
    main()
