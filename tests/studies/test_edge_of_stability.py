"""The study of the edge: a whole small one, and gradient descent at its edge."""

from __future__ import annotations

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from jopt.__main__ import main
from jopt.studies.computed._edge_paths import loss, make_problem, run_path
from jopt.studies.computed.edge_of_stability import RATES, SIZES


def test_a_path_is_the_optimizer_s():
    """Gradient descent by hand, and its lambda_max from the dense Hessian."""
    problem = make_problem(0, 12, 4)
    found = run_path(problem, "gd", jnp.float32(0.1), 2, 3)
    params = problem.params
    for _ in range(6):
        grads = jax.grad(loss)(params, *problem[:2])
        params = {name: w - 0.1 * grads[name] for name, w in params.items()}
    assert found.loss[-1] == pytest.approx(float(loss(params, *problem[:2])), rel=1e-5)
    np.testing.assert_allclose(found.threshold, 20)
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    dense = jax.jit(jax.hessian(lambda w: loss(unravel(w), *problem[:2])))(flat)
    top = np.linalg.eigvalsh(np.asarray(dense, np.float64))[-1]
    assert found.curvature[-1] == pytest.approx(top, rel=1e-3)


@pytest.mark.slow
def test_smoke_end_to_end(tmp_path, capsys):
    line = ["study", "edge_of_stability", "--size=smoke", f"--workdir={tmp_path}"]
    assert main(line) == 0
    said = capsys.readouterr().out
    for name in RATES:
        assert f"| {name}" in said
    rows = (tmp_path / "rows.csv").read_text()
    assert len(rows.splitlines()) == 1 + len(RATES) * SIZES["smoke"].rows


@pytest.mark.slow
def test_gradient_descent_stays_at_the_edge():
    """Section 5.7, 7: from below 2 / lambda_max, progressive sharpening, then 0.9-1.15.

    The step is below 2 / lambda_max of the first weights; measured: 0.93 to 1.05. A
    step twice as large arrives so fast that it overshoots once, to 1.18.
    """
    problem = make_problem(0, 200, 32)
    found = jax.device_get(run_path(problem, "gd", jnp.float32(0.1), 80, 50))
    first = jax.device_get(run_path(problem, "gd", jnp.float32(0.1), 1, 1))
    ratios = found.curvature / found.threshold
    assert first.curvature[0] / first.threshold[0] < 0.9
    arrived = int(np.flatnonzero(ratios >= 0.9)[0])
    assert 1 <= arrived < 60
    later = ratios[arrived + 1 :]
    assert (later > 0.9).all() and (later < 1.15).all()
