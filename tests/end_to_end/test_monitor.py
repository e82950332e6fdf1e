"""What a run writes about its layers."""

from __future__ import annotations

import numpy as np


def test_layers_are_recorded_at_firing_steps_only(training):
    done = training.run(
        "--config.train.steps=12",
        "--config.train.log_every_steps=5",
        "--config.train.accumulation=2",
        "--config.monitor.every_steps=3",
        "--config.optim.whole_tree.clip=0.001",
    )
    assert done.returncode == 0, done.stderr
    records = [r for r in training.records() if "train/loss" in r]
    assert [r["step"] for r in records] == [3, 5, 6, 9, 10, 12]
    for record in records:
        layers = {name: x for name, x in record.items() if name.startswith("layer/")}
        if record["step"] % 3:
            assert not layers
            continue
        for figure in ("grad_norm", "update_norm"):
            parts = [x for name, x in layers.items() if name.endswith(figure)]
            # The whole gradient, after accumulation and before clipping.
            np.testing.assert_allclose(
                np.linalg.norm(parts), record[f"train/{figure}"], rtol=1e-5
            )
        paths = {name.rsplit("/", 1)[0] for name in layers}
        assert "layer/blocks/0/mlp/up/kernel" in paths
        for path in paths:
            ratio = layers[f"{path}/update_norm"] / layers[f"{path}/weight_norm"]
            np.testing.assert_allclose(
                layers[f"{path}/update_to_weight"], ratio, rtol=1e-5
            )
            is_matrix = path.endswith(("kernel", "embedding"))
            assert is_matrix == (f"{path}/stable_rank" in layers), path
        assert len({record[f"{path}/grad_norm"] for path in paths}) == len(paths)
