"""The table of transforms and optimizers that the laws of this folder hold for.

A new one joins by one line in `CASES`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

import jopt
from jopt.optimizers import build, torch_rmsprop
from jopt.optimizers._options import takes_options_of
from jopt.tree import map_named

Make = Callable[..., optax.GradientTransformation]

MATRIX_SHAPES = {
    "up": (4, 6),
    "down": (6, 4),
    "qkv": (4, 8),
    "stack": (2, 4, 6),
}
MATRIX_SPECS = {
    "qkv": jopt.MatrixSpec((0,), (1,), split=(4, 2, 2)),
    "stack": jopt.MatrixSpec((1,), (2,)),
}
MODEL_SHAPES = {
    "embed": {"table": (5, 4)},
    "mlp": {"up": (4, 6), "down": (6, 4), "stack": (2, 4, 6)},
    "norm": {"scale": (4,)},
}
MODEL_SPECS = {"mlp/stack": jopt.MatrixSpec((1,), (2,))}


@dataclasses.dataclass(frozen=True)
class Case:
    """One line of the table.

    Attributes:
        name: as shown by pytest.
        make: constructor; called with `kwargs`, which a law may override.
        kwargs: default arguments.
        traced: arguments that may be traced scalars, all among `kwargs`.
        shapes: tree of parameter shapes.
        scale_free: the update does not depend on the scale of the gradients.
        static: arguments for `static_args` of `optax.inject_hyperparams`.
        restless: moves weights whatever the gradient, besides decay.
        slow: much the same as a case that is quicker, and not among the quick tests.
    """

    name: str
    make: Make
    kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)
    traced: tuple[str, ...] = ()
    shapes: dict[str, Any] = dataclasses.field(default_factory=lambda: MODEL_SHAPES)
    scale_free: bool = False
    static: tuple[str, ...] = ()
    restless: bool = False
    slow: bool = False

    def tx(self, **overrides: Any) -> optax.GradientTransformationExtraArgs:
        made = self.make(**(self.kwargs | overrides))
        return optax.with_extra_args_support(made)

    def _tree(self, seed: int, dtype: str) -> Any:
        def leaf(path: str, shape: Any) -> jax.Array:
            key = jax.random.fold_in(jax.random.key(seed), sum(path.encode()))
            return jax.random.normal(key, shape.shape).astype(dtype)

        shapes = jax.tree.map(
            lambda shape: jax.ShapeDtypeStruct(shape, dtype),
            self.shapes,
            is_leaf=lambda x: isinstance(x, tuple),
        )
        return map_named(leaf, shapes)

    def params(self, dtype: str = "float32") -> Any:
        return self._tree(0, dtype)

    def grads(self, dtype: str = "float32", seed: int = 1) -> Any:
        return self._tree(seed, dtype)


def anchored(weight: Any) -> Any:
    """With an anchor that is not where the parameters are."""
    tx = jopt.decay_to_anchor(weight)
    return optax.GradientTransformationExtraArgs(
        lambda params: tx.init(optax.tree.zeros_like(params)), tx.update
    )


def built(learning_rate: Any = 0.01, weight_decay: Any = 0.1) -> Any:
    """The same tree through rules, as a run builds it."""
    rules = {
        "matrix": {
            "match": "mlp",
            "name": "muon",
            "steps": 2,
            "compute_dtype": "float32",
            "learning_rate": learning_rate,
            "weight_decay": weight_decay,
        },
        "rest": {
            "match": ".*",
            "name": "lion",
            "learning_rate": learning_rate,
            "weight_decay": weight_decay,
        },
    }
    config = {"optim": {"order": ("matrix", "rest"), "rules": rules}}
    shapes = Case("", built).params()
    return build(config, shapes, matrix_specs=MODEL_SPECS).tx


def skipping(learning_rate: Any, weight_decay: Any) -> Any:
    return jopt.skip_nonfinite(jopt.lion(learning_rate, weight_decay=weight_decay))


def skipping_spikes(learning_rate: Any, weight_decay: Any) -> Any:
    return jopt.skip_spikes(jopt.lion(learning_rate, weight_decay=weight_decay))


def monitored(learning_rate: Any, weight_decay: Any) -> Any:
    inner = jopt.lion(learning_rate, weight_decay=weight_decay)
    specs = {"stack": MATRIX_SPECS["stack"]}
    return jopt.monitor(inner, 1, matrix_specs=specs)


def controlled(learning_rate: Any, weight_decay: Any, floor: Any, brake: Any) -> Any:
    """All of weight-side control that goes together, behind one optimizer."""
    return jopt.lion(
        learning_rate,
        weight_decay=weight_decay,
        matrix_specs=MATRIX_SPECS,
        control={"cautious": True, "floor": floor, "brake": brake},
    )


def qk_clipped(learning_rate: Any, threshold: Any) -> Any:
    """One head of queries above the threshold, whose logits are always the same."""
    view = jopt.MatrixSpec((0,), (1,))
    layer = jopt.AttentionSpec(jopt.Heads("up", view), jopt.Heads("down", view))
    clip = jopt.qk_clip(threshold, attention={"attn": layer})
    logits = {"max_attention_logits": {"attn": jnp.array([9.0])}}

    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> Any:
        return clip.update(updates, state, params, **logits, **extra_args)

    clip_at_nine = optax.GradientTransformationExtraArgs(clip.init, update)
    return optax.chain(jopt.signum(learning_rate), clip_at_nine)


@takes_options_of(jopt.spec_sign.matrices)
def switching(learning_rate: Any, weight_decay: Any, **options: Any) -> Any:
    """With noise a third of the gradient, and activations for one of the matrices."""
    tx = jopt.spec_sign.matrices(learning_rate, weight_decay=weight_decay, **options)
    grams = {"activation_grams": {"up": jnp.diag(jnp.arange(1.0, 5.0))}}

    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> Any:
        noise = jax.tree.map(lambda g: jnp.flip(g) / 3, updates)
        extra_args |= grams | {"half_difference": noise}
        return tx.update(updates, state, params, **extra_args)

    return optax.GradientTransformationExtraArgs(tx.init, update)


def given_gradients(make: Make) -> Make:
    """`make`, whose `grad_fn` is the gradient of a quadratic loss with Hessian 2."""

    @functools.wraps(make)
    def made(*args: Any, **kwargs: Any) -> optax.GradientTransformationExtraArgs:
        tx = optax.with_extra_args_support(make(*args, **kwargs))

        def update(
            updates: Any, state: Any, params: Any = None, **extra_args: Any
        ) -> Any:
            def grad_fn(other: Any) -> Any:
                return jax.tree.map(
                    lambda g, p, o: g + 2 * (o - p), updates, params, other
                )

            return tx.update(updates, state, params, grad_fn=grad_fn, **extra_args)

        return optax.GradientTransformationExtraArgs(tx.init, update)

    return made


def sharp(learning_rate: Any, rho: Any, alpha: Any) -> Any:
    """Every other step has a second gradient, that of an uneven quadratic."""
    tx = jopt.sharpness_aware(
        jopt.signum(learning_rate),
        jopt.l2_ascent(rho),
        combine=jopt.looksam(2, alpha),
        direction=jopt.f_sam_direction(),
    )

    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> Any:
        def grad_fn(other: Any) -> Any:
            return jax.tree.map(curved, updates, other, params)

        return tx.update(updates, state, params, grad_fn=grad_fn, **extra_args)

    def curved(g: jax.Array, other: jax.Array, p: jax.Array) -> jax.Array:
        # Along an even one g^e is parallel to g, and LookSAM has nothing to remember.
        curvature = 1 + jnp.arange(g.shape[-1], dtype=p.dtype)
        return (g + curvature * (other - p)).astype(g.dtype)

    return optax.GradientTransformationExtraArgs(tx.init, update)


RATE = {"learning_rate": 0.01, "weight_decay": 0.1}
# Two stages compile faster than four and obey the same laws. The tolerances are those
# of float32: what bfloat16 products do to a law is told in tests/linalg.
ITERATION = {"steps": 2, "compute_dtype": "float32"}
MATRIX = {"matrix_specs": MATRIX_SPECS} | ITERATION
# Square ones: where a moment has no full rank, its eigenvectors are up to rounding.
SQUARE_SHAPES = {"w": (4, 4), "stack": (2, 4, 4)}
SQUARE = {"matrix_specs": {"stack": MATRIX_SPECS["stack"]}}
# Inverse roots amplify rounding by the condition number of the moments.
DAMPED = {"b1": 0.9, "b2": 0.9, "eps": 0.01}
FOLLOWING = {"precondition_frequency": 1, "max_precond_dim": 100, "eps": 1e-3}
SMOOTH = {"init_step_size": 0.01, "gamma": 2.0, "delta": 0.1, "eps": 1e-8}

CASES = (
    Case("adamw", optax.adamw, RATE | {"b1": 0.9}, (*RATE, "b1"), slow=True),
    Case(
        "torch_rmsprop",
        torch_rmsprop,
        # No decay: where it is coupled, a zero gradient is no zero direction.
        {"learning_rate": 0.01, "alpha": 0.9, "eps": 0.01, "momentum": 0.9},
        ("learning_rate", "alpha", "eps", "momentum"),
        slow=True,
    ),
    Case("sign_sgd", jopt.sign_sgd, RATE, tuple(RATE), scale_free=True, slow=True),
    Case(
        "sharpness_aware",
        sharp,
        {"learning_rate": 0.01, "rho": 0.1, "alpha": 0.7},
        ("learning_rate", "rho", "alpha"),
        {"up": (4, 6), "norm": (4,)},
        slow=True,
    ),
    Case("signum", jopt.signum, RATE | {"b1": 0.9}, (*RATE, "b1"), scale_free=True),
    Case(
        "lion",
        jopt.lion,
        RATE | {"b1": 0.9, "b2": 0.99},
        (*RATE, "b1", "b2"),
        scale_free=True,
    ),
    Case(
        "muon",
        jopt.muon,
        RATE | ITERATION | {"beta": 0.95, "matrix_specs": MODEL_SPECS},
        (*RATE, "beta"),
        static=tuple(ITERATION),
    ),
    Case(
        "muon_matrices",
        jopt.muon.matrices,
        RATE | MATRIX | {"beta": 0.95, "nan_policy": "zero"},
        (*RATE, "beta"),
        MATRIX_SHAPES,
        scale_free=True,
        static=tuple(ITERATION),
        slow=True,
    ),
    Case(
        "lion_muon",
        jopt.lion_muon.matrices,
        RATE
        | ITERATION
        | {"b1": 0.9, "b2": 0.99, "period": 2, "dither": 0.1}
        | {"matrix_specs": {"stack": MATRIX_SPECS["stack"]}},
        (*RATE, "b1", "b2", "period", "dither"),
        # Few, since its branches are compiled anew in every eager step.
        {"up": (4, 6), "stack": (2, 4, 6)},
        scale_free=True,
        static=tuple(ITERATION),
    ),
    Case(
        "sign_muon",
        jopt.sign_muon,
        RATE | ITERATION | {"beta": 0.95, "matrix_specs": MODEL_SPECS},
        (*RATE, "beta"),
        static=tuple(ITERATION),
        slow=True,
    ),
    Case(
        "normuon",
        jopt.normuon.matrices,
        RATE | MATRIX | {"beta": 0.95, "b2": 0.9, "eps": 1e-8},
        (*RATE, "beta", "b2"),
        MATRIX_SHAPES,
        scale_free=True,
        static=tuple(ITERATION),
        slow=True,
    ),
    Case(
        "normuon_longer",
        jopt.normuon.matrices,
        RATE | MATRIX | {"axis": "longer", "nan_policy": "zero"},
        tuple(RATE),
        MATRIX_SHAPES,
        scale_free=True,
        static=tuple(ITERATION),
        slow=True,
    ),
    Case(
        "adamuon",
        jopt.adamuon.matrices,
        RATE | MATRIX | {"beta": 0.95, "rms": 0.3},
        (*RATE, "beta", "rms"),
        MATRIX_SHAPES,
        scale_free=True,
        static=tuple(ITERATION),
        slow=True,
    ),
    Case(
        "namo",
        jopt.namo.matrices,
        RATE | MATRIX | {"beta": 0.95, "b2": 0.9, "eps": 0.0},
        (*RATE, "beta", "b2"),
        MATRIX_SHAPES,
        scale_free=True,
        static=tuple(ITERATION),
        slow=True,
    ),
    Case(
        "muon2",
        jopt.muon2.matrices,
        RATE | MATRIX | {"b2": 0.9, "eps": 0.0, "factored": True, "coeffs": "auto"},
        (*RATE, "b2"),
        MATRIX_SHAPES,
        scale_free=True,
        static=tuple(ITERATION),
        slow=True,
    ),
    Case(
        "muon2_by_entry",
        jopt.muon2.matrices,
        RATE | MATRIX | {"b2": 0.9, "eps": 1e-10, "coeffs": "auto"},
        (*RATE, "b2"),
        MATRIX_SHAPES,
        static=tuple(ITERATION),
        slow=True,
    ),
    Case(
        "spec_gd",
        jopt.spec_gd.matrices,
        RATE | MATRIX,
        tuple(RATE),
        MATRIX_SHAPES,
        static=tuple(ITERATION),
        slow=True,
    ),
    Case(
        "polar_grad",
        jopt.polar_grad.matrices,
        RATE | MATRIX | {"beta": 0.9, "momentum": "polar_first"},
        (*RATE, "beta"),
        MATRIX_SHAPES,
        static=tuple(ITERATION),
        slow=True,
    ),
    Case(
        "aurora",
        jopt.aurora.matrices,
        RATE | MATRIX | {"beta": 0.95},
        (*RATE, "beta"),
        MATRIX_SHAPES,
        scale_free=True,
        static=(*ITERATION, "rounds"),
        slow=True,
    ),
    Case(
        "scion",
        jopt.scion,
        RATE | ITERATION | {"beta": 0.9, "matrix_specs": MODEL_SPECS},
        (*RATE, "beta"),
        scale_free=True,
        static=tuple(ITERATION),
        slow=True,
    ),
    Case(
        "dion",
        jopt.dion,
        RATE | {"beta": 0.9, "rank_fraction": 0.5, "matrix_specs": MODEL_SPECS},
        (*RATE, "beta"),
        static=("rank_fraction",),
        slow=True,
    ),
    Case(
        "scale_by_dion",
        jopt.scale_by_dion,
        SQUARE | {"beta": 0.9, "rank_fraction": 0.5},
        ("beta",),
        {"down": (6, 4), "stack": (2, 4, 6)},  # One shape: quicker to compile.
        scale_free=True,
        static=("rank_fraction",),
        slow=True,
    ),
    Case(
        "dion2",
        jopt.dion2,
        RATE | ITERATION | {"fraction": 0.5, "matrix_specs": MODEL_SPECS},
        tuple(RATE),
        static=(*ITERATION, "fraction"),
        slow=True,
    ),
    Case(
        "scale_by_dion2",
        jopt.scale_by_dion2,
        MATRIX | {"ef_decay": 0.9, "fraction": 0.5},
        ("ef_decay",),
        MATRIX_SHAPES,
        scale_free=True,
        static=(*ITERATION, "fraction"),
        slow=True,
    ),
    Case(
        "shampoo",
        jopt.shampoo.matrices,
        RATE | SQUARE | DAMPED,
        (*RATE, *DAMPED),
        SQUARE_SHAPES,
        scale_free=True,
        slow=True,
    ),
    Case(
        "scale_by_shampoo",
        jopt.scale_by_shampoo,
        SQUARE | DAMPED | {"one_sided": True},
        tuple(DAMPED),
        SQUARE_SHAPES,
        scale_free=True,
        slow=True,
    ),
    # `scale_by_soap` alone has no update in its first step, which laws look at.
    Case(
        "soap",
        jopt.soap.matrices,
        RATE | SQUARE | FOLLOWING | {"b1": 0.9, "b2": 0.9},
        (*RATE, "b1", "b2", "eps"),
        SQUARE_SHAPES,
        static=("max_precond_dim",),
        slow=True,
    ),
    Case(
        "soap_muon",
        jopt.soap_muon.matrices,
        RATE | SQUARE | FOLLOWING | ITERATION,
        (*RATE, "eps"),
        SQUARE_SHAPES,
        static=(*ITERATION, "max_precond_dim"),
        slow=True,
    ),
    Case(
        "spec_sign",
        switching,
        RATE
        | {"b1": 0.9, "b2": 0.99, "ema_decay": 0.9, "hysteresis": 0.1, "every": 2.0}
        | {"steps": 2, "compute_dtype": "float32", "stats_method": "svd"},
        (*RATE, "b1", "b2", "ema_decay", "hysteresis"),
        # Few, since its branches are compiled anew in every eager step.
        {"up": (4, 6)},
        scale_free=True,
        static=tuple(ITERATION),
    ),
    Case(
        "spec_sign_direction",
        switching,
        RATE
        | MATRIX
        | {"signal": "direction", "geometries": ("sign", "spectral", "euclidean")}
        | {"min_dwell": 1.0, "every": 1.0, "mode": "cond", "nan_policy": "zero"}
        | {"stats_method": "svd"},
        (*RATE, "min_dwell", "every"),
        MATRIX_SHAPES,
        scale_free=True,
        static=(*ITERATION,),
        slow=True,
    ),
    Case(
        "spec_sign_random",
        jopt.spec_sign.matrices,
        RATE | MATRIX | {"criterion": "random", "rate": 0.4, "every": 1.0},
        (*RATE, "rate"),
        MATRIX_SHAPES,
        scale_free=True,
        static=tuple(ITERATION),
        slow=True,
    ),
    Case(
        "spec_sign_det",
        jopt.spec_sign,
        RATE
        | ITERATION
        | {"criterion": "det", "ema_decay": 0.9, "matrix_specs": MODEL_SPECS},
        (*RATE, "ema_decay"),
        static=tuple(ITERATION),
        slow=True,
    ),
    Case(
        "delta_sgd",
        given_gradients(jopt.delta_sgd),
        SMOOTH | {"weight_decay": 0.1, "clip": 2.0, "max_step_size": 1.0},
        (*SMOOTH, "weight_decay", "clip", "max_step_size"),
        static=("start_up",),
    ),
    Case(
        "adgd",
        given_gradients(jopt.adgd),
        # From here and from half of it the search ends at different sizes.
        {"init_step_size": 0.012, "start_up": True},
        ("init_step_size",),
        static=("start_up",),
        slow=True,
    ),
    Case(
        "scale_by_local_smoothness",
        jopt.scale_by_local_smoothness,
        {"init_step_size": 0.01, "rule": "adgd2_rule2", "gradient_pair": "stored"},
        ("init_step_size",),
        static=("start_up",),
        slow=True,
    ),
    Case(
        "sa_sam",
        given_gradients(jopt.sa_sam),
        SMOOTH | {"rho_scale": 0.5, "rho_max": 0.2, "min_step_size": 1e-6},
        (*SMOOTH, "rho_scale", "rho_max", "min_step_size"),
    ),
    Case(
        "sa_sam_paper",
        given_gradients(jopt.sa_sam),
        {"init_step_size": 0.01, "weight_decay": 0.1, "variant": "paper"}
        | {"smoothness": "perturbation"},
        ("init_step_size", "weight_decay"),
        slow=True,
    ),
    Case("rules", built, RATE, tuple(RATE), scale_free=True),
    Case("scale_by_sign", jopt.scale_by_sign, scale_free=True),
    Case(
        "signs_with_noise",
        jopt.scale_by_sign,
        {"dither": 0.5},
        ("dither",),
        scale_free=True,
        slow=True,
    ),
    Case(
        "soft_signs",
        jopt.scale_by_sign,
        {"soft_sign_eps": 0.5},
        ("soft_sign_eps",),
        slow=True,
    ),
    Case("scale_by_momentum", jopt.scale_by_momentum, {"beta": 0.9}, ("beta",)),
    Case(
        "momentum_by_schedule",
        jopt.scale_by_momentum,
        {"beta": optax.linear_schedule(0.85, 0.95, 300)},
    ),
    Case(
        "scale_by_orthogonalization",
        jopt.scale_by_orthogonalization,
        MATRIX | {"beta": 0.9},
        ("beta",),
        MATRIX_SHAPES,
        scale_free=True,
        static=tuple(ITERATION),
    ),
    Case(
        "scale_by_shape",
        jopt.scale_by_shape,
        {"mode": "match_rms", "kappa": 0.3, "matrix_specs": MATRIX_SPECS},
        ("kappa",),
        MATRIX_SHAPES,
    ),
    Case(
        "skip_nonfinite",
        skipping,
        RATE,
        tuple(RATE),
        scale_free=True,
    ),
    Case(
        "skip_spikes",
        skipping_spikes,
        RATE,
        tuple(RATE),
        scale_free=True,
        slow=True,
    ),
    Case(
        "monitor",
        monitored,
        RATE,
        tuple(RATE),
        # Few, since its branch is compiled anew in every eager step.
        {"stack": (2, 4, 6), "bias": (6,)},
        scale_free=True,
    ),
    Case(
        "hyperball",
        jopt.hyperball,
        {"learning_rate": 0.01, "matrix_specs": MATRIX_SPECS},
        ("learning_rate",),
        MATRIX_SHAPES,
        scale_free=True,
        slow=True,
    ),
    Case(
        "controlled",
        controlled,
        # The floor is above what signs are beside these weights.
        RATE | {"floor": 3.0, "brake": 0.5},
        (*RATE, "floor", "brake"),
        MATRIX_SHAPES,
        scale_free=True,
        slow=True,
    ),
    Case(
        "update_floor",
        jopt.update_floor,
        {"ratio": 3.0, "matrix_specs": MATRIX_SPECS},
        ("ratio",),
        MATRIX_SHAPES,
        slow=True,
    ),
    Case(
        "radial_brake",
        jopt.radial_brake,
        {"outward": 0.5, "matrix_specs": MATRIX_SPECS},
        ("outward",),
        MATRIX_SHAPES,
        slow=True,
    ),
    Case(
        "decay_to_anchor",
        anchored,
        {"weight": 0.1},
        ("weight",),
        restless=True,
        slow=True,
    ),
    Case(
        "qk_clip",
        qk_clipped,
        {"learning_rate": 0.01, "threshold": 4.0},
        ("threshold",),
        MATRIX_SHAPES,
        restless=True,
        slow=True,
    ),
    Case(
        "scale_by_second_moment",
        jopt.scale_by_second_moment,
        {"b2": 0.9, "per": "entry", "matrix_specs": MATRIX_SPECS},
        ("b2",),
        MATRIX_SHAPES,
        slow=True,
    ),
    Case("clip", jopt.clip_by_global_norm, {"max_norm": 2.0}, ("max_norm",)),
)


SUBSETS: dict[str, Callable[[Case], bool]] = {
    "case": lambda case: True,
    "numeric_case": lambda case: bool(case.traced),
    "schedule_case": lambda case: (
        "learning_rate" in case.traced and case.make is not built
    ),
    # Optax's own AdamW promotes where a traced rate meets bfloat16.
    "rated_case": lambda case: (
        "learning_rate" in case.traced and case.make is not optax.adamw
    ),
    "resting_case": lambda case: not case.restless,
    "free_case": lambda case: case.scale_free,
    "movable_case": lambda case: case.make is not built,  # Rules are for one tree.
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for name, belongs in SUBSETS.items():
        if name in metafunc.fixturenames:
            cases = [
                pytest.param(case, marks=[pytest.mark.slow] * case.slow, id=case.name)
                for case in CASES
                if belongs(case)
            ]
            metafunc.parametrize(name, cases)


@pytest.fixture(params=["float32", "bfloat16"])
def dtype(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def run() -> Callable[..., Any]:
    """Several steps: (tx, params, list of grads, state=None) -> (params, state)."""

    def steps(tx: Any, params: Any, grads: Any, state: Any = None) -> Any:
        state = tx.init(params) if state is None else state
        for g in grads:
            updates, state = tx.update(g, state, params)
            params = optax.apply_updates(params, updates)
        return params, state

    return steps


@pytest.fixture
def close() -> Callable[..., None]:
    """Asserts that two trees agree entry by entry, within atol = rtol = `tolerance`."""

    def check(a: Any, b: Any, tolerance: float) -> None:
        assert jax.tree.structure(a) == jax.tree.structure(b)
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
            x, y = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)
            gap = jnp.max(jnp.abs(x - y) - tolerance * jnp.abs(y), initial=0.0)
            assert gap <= tolerance, f"{float(gap)} > {tolerance}"

    return check
