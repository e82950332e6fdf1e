"""Long records become short curves from which no extreme is lost."""

import math

from hypothesis import given
from hypothesis import strategies as st

from jopt.reporting._curves import COLUMNS, POINTS, Grid, curves

LENGTHS = st.integers(1, 200_000)


@given(LENGTHS)
def test_a_curve_has_at_most_so_many_points(steps):
    grid = Grid(steps)
    assert math.ceil(steps / grid.width("train/loss")) <= POINTS
    assert math.ceil(steps / grid.width("layer/w/grad_norm")) <= COLUMNS


@given(LENGTHS, st.integers(1, 200_000))
def test_later_records_change_no_point_before(steps, step):
    """The points up to `before` hold steps up to it, and those after it the others."""
    grid = Grid(steps)
    before = grid.before(step)
    assert 0 <= before < step
    for name in ("train/loss", "layer/w/grad_norm"):
        assert before % grid.width(name) == 0


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60),
    st.integers(1, 70),
)
def test_extremes_are_kept_and_means_lie_between(values, width):
    records = [{"step": s, "loss": x} for s, x in enumerate(values, start=1)]
    curve = curves(records, lambda name: width)["loss"]
    near = {"rel_tol": 1e-5, "abs_tol": 1e-300}
    low, high = (curve.get(name, curve["mean"]) for name in ("low", "high"))
    assert math.isclose(min(low), min(values), **near)
    assert math.isclose(max(high), max(values), **near)
    slack = 1e-5 * max(abs(x) for x in values)
    for at_least, mean, at_most in zip(low, curve["mean"], high, strict=True):
        assert at_least - slack <= mean <= at_most + slack
    assert curve["step"] == sorted({min(-(-s // width) * width, len(values))
                                    for s in range(1, len(values) + 1)})  # fmt: skip


def test_what_is_not_finite_is_a_gap_and_what_is_no_number_is_left_out():
    records = [
        {"step": 1, "loss": 2.0, "final": True, "name": "x"},
        {"step": 2, "loss": math.nan},
        {"step": 3, "loss": math.inf},
    ]
    assert curves(records, lambda name: 1) == {
        "loss": {"step": [1, 2, 3], "mean": [2.0, None, None]}
    }
    assert curves([*records[1:], {"step": 4, "loss": 1.0}], lambda name: 4)["loss"][
        "mean"
    ] == [1.0]
