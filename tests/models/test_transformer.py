"""The decoder language model: what it computes, and what it declares about itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jopt import tree
from jopt.errors import ConfigError
from jopt.models import SIZES, build, default_config, transformer_lm
from jopt.models._transformer import rotate

KEY = jax.random.key(0)


def logits_of(sample, params, inputs=None, **options):
    batch = sample.batch if inputs is None else {"inputs": inputs}
    run = jax.jit(
        lambda p: sample.model.apply(p, {}, batch, key=None, train=False, **options)
    )
    return run(params)


def started(sample, shake):
    return shake(sample.start[0])


def test_later_tokens_do_not_reach_earlier_logits(lm, shake):
    sample = lm(num_layers=2)
    params = started(sample, shake)
    inputs = sample.batch["inputs"]
    others = [inputs.at[:, t].set((inputs[:, t] + 1) % 11) for t in range(6)]
    rows = jnp.concatenate([inputs, *others])  # 7 versions of 2 sequences
    logits = logits_of(sample, params, rows)[0].reshape(7, 2, 6, 11)
    difference = jnp.abs(logits[1:] - logits[0]).max(axis=(1, 3))
    for changed in range(6):
        assert (difference[changed, :changed] == 0).all()
        assert difference[changed, changed:].min() > 1e-4


def test_rotary_products_depend_on_the_distance_only():
    q, k = jax.random.normal(KEY, (2, 8))
    rotated_q = rotate(jnp.broadcast_to(q, (1, 12, 1, 8)), 100.0)[0, :, 0]
    rotated_k = rotate(jnp.broadcast_to(k, (1, 12, 1, 8)), 100.0)[0, :, 0]
    products = np.asarray(rotated_q @ rotated_k.T)
    for distance in range(-11, 12):
        np.testing.assert_allclose(
            np.diag(products, distance), np.diag(products, distance)[0], atol=1e-5
        )
    assert np.ptp(products[0]) > 0.5
    np.testing.assert_allclose(rotated_q[0], q, rtol=1e-6)


def reference_logits(params, ids, *, heads, mlp):
    """The model written plainly in float64, without tied head or dropout."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)

    def norm(x, scale=1.0):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * scale

    def turn(x):  # (T, H, K), one complex number for each pair
        half = x.shape[-1] // 2
        angle = np.arange(len(x))[:, None, None] * 10000.0 ** (-np.arange(half) / half)
        z = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angle)
        return np.concatenate([z.real, z.imag], -1)

    def attend(w, x):
        q, k, v = (np.tensordot(x, w[n]["kernel"], 1) for n in ("q", "k", "v"))
        q, k = turn(norm(q)), turn(norm(k))
        out = np.zeros_like(v)
        for t in range(len(x)):
            for h in range(heads):
                z = k[: t + 1, h] @ q[t, h] / np.sqrt(q.shape[-1])
                a = np.exp(z - z.max())
                out[t, h] = a / a.sum() @ v[: t + 1, h]
        return np.tensordot(out, w["o"]["kernel"], 2)

    def activate(w, x):
        up = x @ w["up"]["kernel"]
        if mlp == "relu2":
            return np.maximum(up, 0) ** 2
        if mlp == "gelu":
            return up / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (up + 0.044715 * up**3)))
        gate = x @ w["gate"]["kernel"]
        return gate / (1 + np.exp(-gate)) * up

    rows = []
    for row in np.asarray(ids):
        x = p["embed"]["embedding"][row]
        for number in range(len(p["blocks"])):
            block = p["blocks"][str(number)]
            x = x + attend(block["attn"], norm(x, block["attn_norm"]["scale"]))
            normed = norm(x, block["mlp_norm"]["scale"])
            x = x + activate(block["mlp"], normed) @ block["mlp"]["down"]["kernel"]
        rows.append(norm(x, p["norm"]["scale"]) @ p["head"]["kernel"])
    return np.stack(rows)


@pytest.mark.parametrize("mlp", ["relu2", "gelu", "swiglu"])
def test_agrees_with_a_plain_float64_reference(lm, shake, mlp):
    sample = lm(mlp=mlp, num_layers=2)
    params = started(sample, shake)
    expected = reference_logits(params, sample.batch["inputs"], heads=2, mlp=mlp)
    scale = np.abs(expected).max()
    assert scale > 1
    logits = logits_of(sample, params)[0]
    np.testing.assert_allclose(logits, expected, atol=1e-5 * scale)
    if mlp != "relu2":
        return
    # bfloat16 has 8 bits: within 4 % of the largest logit through 2 layers.
    low = logits_of(lm(mlp=mlp, num_layers=2, compute_dtype="bfloat16"), params)[0]
    assert low.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(low, np.float32), expected, atol=0.04 * scale)


def test_tied_head_is_the_embedding(lm, shake):
    tied, untied = lm(tied_head=True), lm()
    params = started(tied, shake)
    assert "head" not in params
    with_head = {**params, "head": {"kernel": params["embed"]["embedding"].T}}
    np.testing.assert_allclose(
        logits_of(tied, params)[0], logits_of(untied, with_head)[0], atol=1e-5
    )


def test_new_model_is_uniform_and_blocks_are_the_identity(lm):
    sample = lm(num_layers=2)
    params, _ = sample.start
    taps = ("head/input", "blocks/0/attn/input", "blocks/1/mlp/input")
    logits, _, values = logits_of(sample, params, taps=taps)
    assert jnp.abs(logits).max() == 0
    for name in taps[1:]:
        np.testing.assert_array_equal(values[name], values["head/input"])


def test_initial_deviations():
    scale = 2.0
    model = transformer_lm({**default_config("micro"), "init_scale": scale})
    params = tree.named_leaves(jax.jit(model.init)(KEY, None)[0])
    for path, leaf in params.items():
        if path.endswith("scale"):
            assert (leaf == 1).all(), path
        elif path.endswith(("o/kernel", "down/kernel", "head/kernel")):
            assert (leaf == 0).all(), path
        else:
            expected = 0.02 if "embed" in path else scale * 96**-0.5
            assert abs(float(leaf.std()) / expected - 1) < 0.05, path


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mlp", ["relu2", "swiglu"])
def test_parameter_count(size, mlp):
    config = {**default_config(size), "mlp": mlp, "vocab_size": 1000}
    params, _ = jax.eval_shape(build(config).init, KEY, None)
    L, D, V = config["num_layers"], config["embed_dim"], 1000
    hidden_matrices = 3 if mlp == "swiglu" else 2
    kernels = L * (4 * D * D + hidden_matrices * D * 4 * D)
    assert tree.count(params) == kernels + 2 * V * D + (2 * L + 1) * D


def test_sizes_by_hand():
    counts = {
        size: tree.count(jax.eval_shape(build(default_config(size)).init, KEY, None)[0])
        for size in SIZES
    }
    assert counts == {
        "micro": 270_816,
        "tiny": 381_600,
        "small": 1_619_680,
        "gpt2": 85_347_072,
    }


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"mlp": "swiglu"},
        {"tied_head": True},
        {"num_kv_heads": 1},
        {"fused_qkv": True, "num_kv_heads": 1},
        {"scan": True},
    ],
)
def test_flops_are_those_of_the_matmuls(lm, settings):
    """Forward dot products counted in the traced program; backward is twice as many."""
    sample = lm(num_layers=2, **settings)
    params, _ = jax.eval_shape(sample.model.init, KEY, None)
    B, T = sample.batch["inputs"].shape
    jaxpr = jax.make_jaxpr(
        lambda p: sample.model.apply(p, {}, sample.batch, key=None, train=False)[0]
    )(params)
    forward = sum(_dot_flops(jaxpr.jaxpr))
    assert sample.model.flops_per_token(T) == 3 * forward / (B * T)


def _dot_flops(jaxpr):
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            summed = np.prod([shape[axis] for axis in contracted])
            yield 2 * summed * np.prod(equation.outvars[0].aval.shape)
        repeats = equation.params["length"] if equation.primitive.name == "scan" else 1
        for value in equation.params.values():
            if hasattr(value, "jaxpr"):
                yield from (repeats * flops for flops in _dot_flops(value.jaxpr))


def test_max_logits_are_those_of_the_allowed_keys(lm, shake):
    sample = lm(qk_norm=False)
    params = started(sample, shake)
    names = ("blocks/0/attn/max_logits", "blocks/0/attn/input")
    inputs = jnp.array([[3, 1, 4, 1, 5, 9]])
    _, _, taps = logits_of(sample, params, inputs, taps=names)
    weights = params["blocks"]["0"]["attn"]
    x = taps["blocks/0/attn/input"]
    q, k = (
        rotate(jnp.einsum("btd,dhk->bthk", x, weights[n]["kernel"]), 1e4) for n in "qk"
    )
    logits = np.asarray(jnp.einsum("bthk,bshk->bhts", q, k)) / np.sqrt(12)
    expected = np.where(np.tri(6, dtype=bool), logits, -np.inf).max((0, 2, 3))
    np.testing.assert_allclose(taps[names[0]], expected, rtol=1e-5)
    assert (expected < logits.max((0, 2, 3))).any()  # the mask matters here


@pytest.mark.parametrize("qk_norm", [True, False])
def test_qk_norm_bounds_the_logits(lm, shake, qk_norm):
    sample = lm(qk_norm=qk_norm)
    params = shake(started(sample, shake), scale=10.0)
    name = "blocks/0/attn/max_logits"
    _, _, taps = logits_of(sample, params, taps=(name,))
    assert taps[name].shape == (2,) and taps[name].dtype == jnp.float32
    bound = 12**0.5 * (1 + 1e-5)  # |q| = |k| = sqrt(head_dim)
    assert (taps[name].max() <= bound) == qk_norm


def test_taps_cost_nothing_unless_asked_for(lm):
    sample = lm()
    params, _ = jax.eval_shape(sample.model.init, KEY, None)

    def equations(taps):
        run = lambda p: sample.model.apply(  # noqa: E731
            p, {}, sample.batch, key=None, train=False, taps=taps
        )
        return len(jax.make_jaxpr(run)(params).eqns)

    plain = equations(())
    held = [name for name in sample.model.tap_names if "max_logits" not in name]
    assert equations(tuple(held)) == plain  # values that exist anyway
    assert equations(("blocks/0/attn/max_logits",)) > plain


def test_head_gradient_is_tap_times_error(lm, shake):
    sample = lm()
    params = started(sample, shake)
    targets = sample.batch["targets"]

    def loss(params):
        logits, _, taps = sample.model.apply(
            params, {}, sample.batch, key=None, train=False, taps=("head/input",)
        )
        nats = -jax.nn.log_softmax(logits)
        return jnp.take_along_axis(nats, targets[..., None], -1).sum(), (logits, taps)

    grads, (logits, taps) = jax.jit(jax.grad(loss, has_aux=True))(params)
    error = jax.nn.softmax(logits) - jax.nn.one_hot(targets, 11)
    expected = jnp.einsum("btd,btv->dv", taps["head/input"], error)
    np.testing.assert_allclose(grads["head"]["kernel"], expected, atol=1e-4)


def test_taps_of_a_scan_are_returned_only_if_asked_for(lm):
    sample = lm(num_layers=2, scan=True)
    params, _ = jax.eval_shape(sample.model.init, KEY, None)

    def outputs_of_scan(taps):
        jaxpr = jax.make_jaxpr(
            lambda p: sample.model.apply(
                p, {}, sample.batch, key=None, train=False, taps=taps
            )
        )(params)
        [scan] = [e for e in jaxpr.jaxpr.eqns if e.primitive.name == "scan"]
        return len(scan.outvars)

    assert outputs_of_scan(()) == 1
    assert outputs_of_scan(("blocks/mlp/hidden", "head/input")) == 2


def test_one_trace_for_every_batch(lm):
    sample = lm()
    params, _ = sample.start
    traces = []

    @jax.jit
    def run(params, batch):
        traces.append(1)
        return sample.model.apply(params, {}, batch, key=None, train=False)[0]

    for shift in range(3):
        run(params, {"inputs": (sample.batch["inputs"] + shift) % 11})
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"mlp": "relu"},
            "model.mlp: expected one of relu2, gelu, swiglu, found 'relu'",
        ),
        ({"num_heads": 3}, "model.num_heads: expected a divisor of embed_dim 128"),
        ({"embed_dim": 12}, r"num_heads to be even.*found 4"),
        ({"compute_dtype": "float16"}, "one of float32, bfloat16, found 'float16'"),
        ({"dropout": 1.0}, r"model.dropout: expected a rate in \[0, 1\), found 1.0"),
        ({"num_kv_heads": 3}, "model.num_kv_heads: expected 0 or a divisor of .* 4"),
        ({"num_kv_heads": -1}, "model.num_kv_heads: expected a whole number"),
        ({"num_kv_heads": True}, "model.num_kv_heads: expected a whole number"),
        ({"fused_qkv": 1}, "model.fused_qkv: expected True or False, found 1"),
        ({"scan": "yes"}, "model.scan: expected True or False, found 'yes'"),
        ({"num_layers": 0}, "model.num_layers: expected a whole number of at least 1"),
        ({"vocab_size": True}, "model.vocab_size: expected a whole number"),
        ({"embed_dim": 128.0}, "model.embed_dim: expected a whole number"),
        ({"rope_base": float("nan")}, "model.rope_base: expected a number above 0"),
        ({"mlp_ratio": 0.001}, "mlp_ratio . embed_dim 128 to be >= 1"),
        ({"qk_norm": 1}, "model.qk_norm: expected True or False, found 1"),
        ({"droput": 0.1}, "unknown key model.droput\n  did you mean model.dropout"),
        (
            {"num_layers": -1, "mlp": "x"},
            r"(?s)model.num_layers.*found -1.*model.mlp.*found 'x'",
        ),
    ],
)
def test_settings_that_cannot_work(settings, message):
    with pytest.raises(ConfigError, match=message):
        build({**default_config(), "embed_dim": 128, "num_heads": 4, **settings})


def test_config_may_be_any_object_with_attributes():
    from ml_collections import ConfigDict

    class Plain:
        name = "transformer_lm"
        num_layers = 1
        embed_dim = 8
        num_heads = 2

    assert len(build(Plain()).matrix_specs) == 11
    model = build(ConfigDict({"name": "transformer_lm", "num_layers": 1}))
    assert len(model.matrix_specs) == 11


@pytest.mark.parametrize("name", ["transformer_ml", None])
def test_unknown_model_name(name):
    expected = r"unknown model\.name .*Known: mlp, .*transformer_lm"
    with pytest.raises(ConfigError, match=expected) as error:
        build({"name": name})
    assert ("did you mean" in str(error.value)) == (name is not None)


def test_unknown_size():
    with pytest.raises(ConfigError, match=r"'big'\. Known: micro, tiny, small, gpt2"):
        default_config("big")
