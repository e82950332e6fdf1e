"""The restarts of the default list: two hold, one does not."""

from __future__ import annotations

import numpy as np

from jopt.linalg import PRESETS

SHAPE = (16, 48)


def test_the_shipped_restarts_hold_where_one_of_them_does_not(gram_restarts):
    x_SMN = np.stack([gram_restarts.matrix("flat", SHAPE, seed) for seed in range(3)])
    shipped = PRESETS["polar_express_fast4"].half_restarts
    assert shipped in gram_restarts.RESTARTS
    assert gram_restarts.largest(x_SMN, shipped) < 1.15
    assert gram_restarts.largest(x_SMN, (2,)) > 1.3


def test_table_has_the_worst_of_all_shapes(gram_restarts, monkeypatch):
    monkeypatch.setattr(gram_restarts, "RESTARTS", ((1, 2),))
    both = gram_restarts.table([SHAPE, (4, 8)], seeds=1)
    (large,), (small,) = (
        gram_restarts.table([shape], seeds=1) for shape in (SHAPE, (4, 8))
    )
    assert both == [[max(pair) for pair in zip(large, small, strict=True)]]
