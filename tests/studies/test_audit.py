"""The audit's measurements and its judgement, beside plain loops."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jopt.criteria import Directions
from jopt.matrix import MatrixSpec
from jopt.objectives import Aux
from jopt.studies.probing._agreement import Case, agreement, agreements, share_table
from jopt.studies.probing._audit import (
    gains_on_other_data,
    gains_on_own_data,
    loss_table,
    make_losses,
)
from jopt.studies.statistics import proportion_interval

VIEWS = {
    "stack": MatrixSpec((1,), (2,)),
    "fused": MatrixSpec((0,), (1,), split=(2, 1)),
}
SHAPES = {"bias": (3,), "fused": (4, 3), "stack": (2, 4, 3)}
MATRICES = 2 + 2  # of the stack, and the blocks of the fused one
SIZES = (1.0, 0.25)


def objective(model, *, train):
    def value(params, model_state, batch, key):
        terms = [jnp.sum(jnp.cos(x * batch["scale"])) for x in jax.tree.leaves(params)]
        return sum(terms), Aux({}, model_state, {})

    assert not train, "an audit draws no random numbers"
    return value


PLAN = SimpleNamespace(task=SimpleNamespace(objective=objective), model=None)


def tree(seed):
    rng = np.random.default_rng(seed)
    return {path: rng.normal(size=shape) for path, shape in SHAPES.items()}


def blocks(path):
    """The parts of a leaf that are matrices, as numpy indexes them."""
    if path == "stack":
        return [np.s_[0], np.s_[1]]
    return [np.s_[:, :2], np.s_[:, 2:]]


def test_losses_are_those_of_moving_one_matrix_at_a_time():
    params, ways = tree(0), [tree(1), tree(2)]
    params["fused"] *= 0.01  # smaller than a weight that keeps unit inputs
    batches = [{"scale": jnp.float32(s)} for s in (1.0, 2.0)]
    state = SimpleNamespace(params=jax.tree.map(jnp.float32, params), model_state={})
    directions = Directions(*(jax.tree.map(jnp.float32, way) for way in ways))
    found = loss_table(
        make_losses(PLAN, VIEWS),
        state,
        directions,
        batches,
        matrices=MATRICES,
        sizes=SIZES,
    )
    assert found.shape == (2, 3, MATRICES, 2)

    def loss(moved, scale):
        return sum(np.cos(x * scale).sum() for x in moved.values())

    def rms(x):
        return np.sqrt(np.mean(x**2))

    names = [(path, block) for path in VIEWS for block in blocks(path)]
    for h, scale in enumerate((1.0, 2.0)):
        for r, size in enumerate((0.0, *SIZES)):
            for p, (path, block) in enumerate(names):
                for g, way in enumerate(ways):
                    moved = {name: x.copy() for name, x in params.items()}
                    w, d = params[path][block], way[path][block]
                    step = size * max(rms(w), 4**-0.5) / rms(d) * d
                    moved[path][block] = w - step
                    np.testing.assert_allclose(
                        found[h, r, p, g], loss(moved, scale), rtol=1e-4
                    )


def quadratic(slopes, sizes):
    """Losses 1 - slope size + size^2 / 2 of each batch: (H, R + 1, P, G)."""
    x = np.array([0.0, *sizes])
    rows = [[[1 - s * x + x**2 / 2 for s in pair]] for pair in slopes]
    return np.moveaxis(np.array(rows), -1, 1)


def test_gain_is_that_of_the_size_that_others_chose():
    sizes = (1.0, 2.0, 4.0)
    # Slopes of both geometries on four batches; the best size is the slope.
    table = quadratic([(1.0, 2.0), (2.0, 1.0), (1.0, 2.0), (2.0, 1.0)], sizes)
    found = gains_on_other_data([table], sizes)
    # Chosen 1 where the slope is 2, and 2 where it is 1: gains 3/2 and 0.
    np.testing.assert_allclose(found.sign, [0.75])
    np.testing.assert_allclose(found.spectral, [0.75])
    np.testing.assert_allclose(found.sign_size, [1.5])
    # Differences of the batches: -3/2, 3/2, -3/2, 3/2.
    np.testing.assert_allclose(found.gap_error, np.sqrt(4 * 1.5**2 / 3 / 4))
    own = quadratic([(4.0, -1.0)], sizes)
    found = gains_on_own_data([own], [table], sizes)
    # 4 is too long for a slope of 1.5; no step at all is chosen for the other.
    np.testing.assert_allclose(found.sign, [1.5 * 4 - 8])
    np.testing.assert_allclose([*found.spectral, *found.spectral_size], 0)


def case(**changes):
    start = Case(1, "early", "w", "w", 0.1, 0.3, 0.05, {"rule": True})
    return start._replace(**changes)


def test_equal_and_unknown_gains_decide_nothing():
    cases = [
        case(),
        case(says={"rule": False}, kind="v", gap_error=0.15),
        case(gain_sign=0.3),
        case(gain_spectral=np.nan),
    ]
    found = agreement(cases, "rule")
    assert (found.right, found.cases) == (1, 2)
    np.testing.assert_allclose([found.gain, found.best], [0.2, 0.3])
    by_group = agreements(cases)
    assert by_group["v"]["rule"].cases == by_group["w"]["rule"].cases == 1
    assert by_group["clear"]["rule"].cases == 1
    assert by_group["all"]["rule"] == by_group["early"]["rule"] == found
    assert "0.00" in share_table(by_group) and "1.00" in share_table(by_group)
    assert agreements([]) == {"all": {}, "clear": {}}


@pytest.mark.parametrize("share", [0.5, 0.8, 0.95])
def test_interval_holds_the_share_as_often_as_it_says(share):
    count = 40
    chances = stats.binom.pmf(np.arange(count + 1), count, share)
    held = [
        low <= share <= high
        for low, high in (proportion_interval(k, count) for k in range(count + 1))
    ]
    # On average over shares it is 0.95; for a single one it goes up and down.
    assert 0.92 <= chances[held].sum() <= 0.98
