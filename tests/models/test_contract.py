"""What every model obeys, whichever module system is behind it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from jopt import tree
from jopt.errors import ConfigError, ShapeError
from jopt.matrix import MatrixSpec
from jopt.models import linen_model, nnx_model

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def started(sample, shake):
    """Parameters away from their zero start, and the model's state."""
    params, state = sample.start
    return shake(params), state


@pytest.fixture(scope="module")
def run(sample, started):
    """`run(train=, key=, taps=)`: the compiled model on its batch."""

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def compiled(train, taps, params, state, batch, key):
        return sample.model.apply(params, state, batch, key=key, train=train, taps=taps)

    def run(*, train, key=KEY, taps=()):
        return compiled(train, taps, *started, sample.batch, key)

    return run


@pytest.fixture(scope="module")
def gradients(sample, started):
    """Gradients of sum(sin(outputs)) in evaluation, and every tap."""
    taps = sample.model.tap_names
    return jax.jit(jax.grad(scalar(sample, started, taps), has_aux=True))(started[0])


def scalar(sample, started, taps=()):
    def loss(params):
        outputs, _, values = sample.model.apply(
            params, started[1], sample.batch, key=None, train=False, taps=taps
        )
        return jnp.sum(jnp.sin(outputs.astype(jnp.float32))), values

    return loss


def equal(a, b):
    return tree.digest(a) == tree.digest(b)


def test_init_is_decided_by_the_key(sample):
    init = sample.model.init
    assert equal(sample.start, init(KEY, sample.batch))
    assert not equal(sample.start[0], init(jax.random.key(1), sample.batch)[0])


def test_state_is_a_nested_dict_with_string_keys(sample):
    params, state = jax.eval_shape(sample.model.init, KEY, sample.batch)
    for part in (params, state):
        paths, _ = jax.tree_util.tree_flatten_with_path(part)
        for path, _ in paths:
            assert all(isinstance(key.key, str) for key in path)
    assert bool(jax.tree.leaves(state)) == sample.has_state
    assert sample.has_state or state == {}
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("train", [False, True])
def test_eager_equals_compiled_and_changes_no_input(sample, started, run, train):
    before = tree.digest((*started, sample.batch))
    eager = sample.model.apply(*started, sample.batch, key=KEY, train=train)
    assert tree.digest((*started, sample.batch)) == before
    for a, b in zip(
        jax.tree.leaves(eager), jax.tree.leaves(run(train=train)), strict=True
    ):
        np.testing.assert_allclose(
            np.asarray(a, np.float32),
            np.asarray(b, np.float32),
            atol=sample.tolerance,
        )


def test_evaluation_needs_no_key(sample, started, run):
    outputs, state, _ = run(train=False)
    assert equal(outputs, run(train=False, key=jax.random.key(1))[0])
    assert equal(outputs, run(train=False, key=None)[0])
    assert equal(state, started[1])


def test_key_decides_dropout(sample, run):
    outputs = run(train=True)[0]
    assert equal(outputs, run(train=True)[0])
    assert equal(outputs, run(train=True, key=jax.random.key(1))[0]) != (
        sample.has_dropout
    )


def test_training_moves_the_state_and_keeps_its_structure(sample, started, run):
    state = run(train=True)[1]
    assert jax.tree.structure(state) == jax.tree.structure(started[1])
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, started[1])
    assert equal(state, started[1]) != sample.has_state


def test_every_parameter_has_a_view_that_fits(sample, started):
    leaves = tree.named_leaves(started[0])
    assert set(sample.model.matrix_specs) == set(leaves)
    for path, spec in sample.model.matrix_specs.items():
        layers = sample.layers if path.startswith("blocks/") else 1
        size = leaves[path].size
        assert (spec is None) == (leaves[path].ndim - (layers > 1) < 2), path
        if spec is not None:
            assert spec.blocks(leaves[path].shape)
            stacked, fan_in, fan_out = spec.dims(leaves[path].shape)
            assert (stacked, fan_in * fan_out) == (layers, size // layers)


def test_every_matrix_has_a_tap_of_its_fan_in(sample, started, gradients):
    model = sample.model
    assert set(model.taps) == {p for p, spec in model.matrix_specs.items() if spec}
    taps = gradients[1]
    assert set(taps) == set(model.tap_names)
    leaves = tree.named_leaves(started[0])
    for path, name in model.taps.items():
        layers, fan_in, _ = model.matrix_specs[path].dims(leaves[path].shape)
        if jnp.issubdtype(taps[name].dtype, jnp.integer):
            assert taps[name].min() >= 0 and taps[name].max() < fan_in
        else:
            assert taps[name].size % (layers * fan_in) == 0, path
            assert layers in (1, len(taps[name])), path


def test_gradient_lies_in_the_span_of_its_tap(sample, gradients):
    """dW = A^T dY: with fewer rows in A than its fan-in, that is a strong condition."""
    model = sample.model
    grads, taps = gradients
    leaves = tree.named_leaves(grads)
    tied = "embed/embedding" in leaves and "head/kernel" not in leaves
    checked = 0
    for path, name in model.taps.items():
        if tied and path == "embed/embedding":
            continue  # its gradient has a second part, from the head
        gradient = np.asarray(leaves[path], np.float64)
        layers, fan_in, _ = model.matrix_specs[path].dims(gradient.shape)
        tap = taps[name]
        if jnp.issubdtype(tap.dtype, jnp.integer):
            tap = jax.nn.one_hot(tap, fan_in)
        A = np.asarray(tap.astype(jnp.float32), np.float64)
        for A_l, dW_l in zip(  # one layer, unless they are stacked
            A.reshape(layers, -1, fan_in),
            gradient.reshape(layers, fan_in, -1),
            strict=True,
        ):
            # Directions of the fan-in that no row of A has.
            _, sizes, rows = np.linalg.svd(A_l)
            rank = int((sizes > 1e-5 * sizes[0]).sum())
            outside = np.linalg.norm(rows[rank:] @ dW_l)
            scale = np.linalg.norm(dW_l)
            assert scale > 0, path
            assert outside <= max(1e-4, sample.tolerance / 5) * scale, path
            checked += rank < fan_in
    assert checked > 0


def test_vmap_over_parameters_is_a_loop(sample, started):
    params, state = started
    pair = jax.tree.map(lambda x: jnp.stack([x, 0.5 * x]), params)

    def run(params):
        return sample.model.apply(params, state, sample.batch, key=None, train=False)[0]

    together = jax.jit(jax.vmap(run))(pair)
    run = jax.jit(run)
    for i in range(2):
        alone = run(jax.tree.map(lambda x, i=i: x[i], pair))
        np.testing.assert_allclose(
            np.asarray(together[i], np.float32),
            np.asarray(alone, np.float32),
            rtol=sample.tolerance,
            atol=sample.tolerance,
        )


def test_forward_derivative_agrees_with_reverse(sample, started, gradients):
    """Products with the Gauss-Newton matrix need a derivative in both directions."""
    params = started[0]
    loss = scalar(sample, started)
    _, forward = jax.jit(lambda p: jax.jvp(lambda q: loss(q)[0], (p,), (p,)))(params)
    products = jax.tree.map(jnp.vdot, params, gradients[0])
    sizes = jax.tree.map(jnp.abs, products)
    total, size = (sum(jax.tree.leaves(x)) for x in (products, sizes))
    assert size > 1
    np.testing.assert_allclose(forward, total, atol=sample.tolerance / 4 * size)


def test_unknown_tap_names_the_nearest(sample, started):
    name = sample.model.tap_names[0]
    with pytest.raises(ConfigError, match=f"did you mean {name}"):
        sample.model.apply(
            *started, sample.batch, key=None, train=False, taps=(name + "x",)
        )


def test_a_model_is_hashable_and_frozen(sample):
    assert hash(sample.model) == hash(sample.model)
    with pytest.raises(dataclasses.FrozenInstanceError):
        sample.model.vocab_size = 3


def test_parameters_of_another_model_are_refused(lm):
    two, one = lm(num_layers=2), lm()
    params, state = one.start
    with pytest.raises(ShapeError, match=r"missing.*blocks/1/attn/q/kernel"):
        two.model.apply(params, state, two.batch, key=None, train=False)


def test_dropout_without_a_key_is_refused(lm):
    drop = lm(dropout=0.5)
    params, state = drop.start
    with pytest.raises(ConfigError, match="needs a key to train"):
        drop.model.apply(params, state, drop.batch, key=None, train=True)


def linear(rngs):
    return nnx.Linear(2, 3, rngs=rngs)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, ConfigError, r"no matrix view:\n  kernel \(2, 3\)"),
        (
            {"matrix_specs": {"kernal": None}},
            ConfigError,
            "kernal\n  did you mean kernel",
        ),
        (
            {"matrix_specs": {"kernel": MatrixSpec((0,), (2,))}},
            ShapeError,
            "matrix view of kernel",
        ),
        (
            {"matrix_specs": {"kernel": None}, "taps": {"bais": "input"}},
            ConfigError,
            "did you mean bias",
        ),
    ],
)
def test_wrong_declarations_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        nnx_model(linear, **options)


def test_views_of_optax_are_views():
    from optax.contrib import MuonDimensionNumbers

    model = nnx_model(linear, matrix_specs={"kernel": MuonDimensionNumbers(0, 1)})
    assert model.matrix_specs["kernel"] == MatrixSpec((0,), (1,))
    with pytest.raises(ConfigError, match=r"matrix view of kernel: .* found 'dense'"):
        nnx_model(linear, matrix_specs={"kernel": "dense"})


def test_views_may_come_from_a_function():
    def view(path, shape):
        return MatrixSpec((0,), (1,)) if path == "kernel" else None

    model = nnx_model(linear, matrix_specs=view)
    assert model.matrix_specs == {"bias": None, "kernel": MatrixSpec((0,), (1,))}
    assert model.flops_per_token(100) == 6 * 6


@pytest.mark.parametrize("kind", ["nnx", "linen"])
def test_a_declared_tap_that_never_comes_is_an_error(kind):
    batch = {"inputs": jnp.ones((1, 2))}
    options = {"matrix_specs": {"kernel": None}, "tap_names": ("lost",)}
    if kind == "nnx":
        model = nnx_model(linear, **options)
    else:
        model = linen_model(
            linen.Dense(3), batch, call=lambda m, b, train: m(b["inputs"]), **options
        )
    params, state = model.init(KEY, batch)
    with pytest.raises(ConfigError, match=r"never .*s: lost"):
        model.apply(params, state, batch, key=None, train=False, taps=("lost",))
