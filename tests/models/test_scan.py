"""Layers in a scan, and queries, keys and values in other arrangements: same model."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jopt import tree
from jopt.matrix import MatrixSpec
from jopt.models import generate

KEY = jax.random.key(0)
LAYERS = 3
# As the layers themselves add up in another order: float32.
FLOAT32 = 1e-5


def stack(params, layers=LAYERS):
    """Parameters of layers one by one as those of the scan."""
    blocks = [params["blocks"][str(number)] for number in range(layers)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks)
    return {**params, "blocks": stacked}


def run(sample, params, *, train=False, key=None, taps=()):
    """Loss, gradients, logits and taps, in one program."""

    def loss(params):
        logits, _, values = sample.model.apply(
            params, {}, sample.batch, key=key, train=train, taps=taps
        )
        return jnp.sum(jnp.sin(logits)), (logits, values)

    (_, (logits, values)), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(
        params
    )
    return logits, grads, values


def close(found, expected):
    found, expected = tree.named_leaves(found), tree.named_leaves(expected)
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        scale = np.abs(value).max()
        np.testing.assert_allclose(
            found[path], value, atol=FLOAT32 * scale, err_msg=path
        )


@pytest.fixture(
    params=[
        pytest.param({}, id="plain"),
        pytest.param(
            {"fused_qkv": True, "num_kv_heads": 1, "mlp": "swiglu", "tied_head": True},
            id="fused",
            marks=pytest.mark.slow,
        ),
    ],
)
def pair(request, lm):
    """The same model with its layers one by one, and in a scan."""
    make = functools.partial(lm, num_layers=LAYERS, **request.param)
    return make(), make(scan=True)


def test_a_scan_starts_where_the_layers_start(pair):
    apart, scanned = pair
    assert tree.digest(scanned.start[0]) == tree.digest(stack(apart.start[0]))


def test_a_scan_computes_what_the_layers_compute(pair, shake):
    apart, scanned = pair
    params = shake(apart.start[0])
    logits, grads, _ = run(apart, params)
    assert np.abs(logits).max() > 0.1
    found_logits, found_grads, _ = run(scanned, stack(params))
    close(found_logits, logits)
    close(found_grads, stack(grads))


def test_taps_of_a_scan_are_those_of_the_layers(pair, shake):
    apart, scanned = pair
    params = shake(apart.start[0])
    _, _, expected = run(apart, params, taps=apart.model.tap_names)
    _, _, found = run(scanned, stack(params), taps=scanned.model.tap_names)
    for name, value in found.items():
        if not name.startswith("blocks/"):
            close(value, expected[name])
            continue
        for layer in range(LAYERS):
            single = name.replace("blocks", f"blocks/{layer}")
            close(value[layer], expected.pop(single))
    assert not [name for name in expected if name.startswith("blocks/")]


def test_every_layer_has_a_dropout_of_its_own(lm):
    """The mask of the MLP's branch, seen where the next layer differs from this one."""
    sample = lm(num_layers=LAYERS, scan=True, dropout=0.8)
    params = jax.tree.map(jnp.copy, sample.start[0])  # attn/o starts at zero
    down = params["blocks"]["mlp"]["down"]
    down["kernel"] = jax.random.normal(KEY, down["kernel"].shape)
    key, name = jax.random.key(5), "blocks/attn/input"
    _, _, taps = run(sample, params, train=True, key=key, taps=(name,))
    x_LND = np.asarray(taps[name]).reshape(LAYERS, -1, 24)
    kept = []
    for now, then in itertools.pairwise(x_LND):
        # What was dropped only changed with the norm of its row.
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = np.where(now == 0, np.nan, then / now)
        norm = np.nanmedian(ratios, axis=1, keepdims=True)
        kept.append(~np.isclose(then, norm * now, rtol=1e-3, atol=1e-5))
    assert 0.05 < np.mean(kept) < 0.6
    assert np.mean(kept[0] != kept[1]) > 0.1


def test_the_views_of_a_scan_are_those_of_a_layer_stacked(pair):
    apart, scanned = (sample.model.matrix_specs for sample in pair)
    for path, spec in scanned.items():
        single = apart[path.replace("blocks", "blocks/0")]
        if path.startswith("blocks/") and single is not None:
            single = single.stacked()
        assert spec == single, path


def test_flops_do_not_depend_on_the_scan(pair):
    apart, scanned = pair
    assert apart.model.flops_per_token(64) == scanned.model.flops_per_token(64)


def test_a_scanned_model_writes_what_its_layers_write(pair, shake):
    apart, scanned = pair
    params = shake(apart.start[0])
    draw = functools.partial(
        generate, prompt=np.array([1, 2, 3]), key=KEY, num_tokens=12, window=6
    )
    np.testing.assert_array_equal(
        draw(scanned.model, stack(params), {}), draw(apart.model, params, {})
    )


def test_one_block_is_traced_however_many_layers(lm):
    def equations(layers):
        sample = lm(num_layers=layers, scan=True)
        params, _ = jax.eval_shape(sample.model.init, KEY, None)
        jaxpr = jax.make_jaxpr(
            lambda p: sample.model.apply(p, {}, sample.batch, key=None, train=False)[0]
        )(params)
        return str(jaxpr).count("\n")

    assert equations(2) == equations(6)


@pytest.mark.parametrize("kv_heads", [0, 1])
def test_a_fused_kernel_is_its_parts_side_by_side(lm, shake, kv_heads):
    parts, fused = lm(num_kv_heads=kv_heads), lm(num_kv_heads=kv_heads, fused_qkv=True)
    params = shake(parts.start[0])
    attn = params["blocks"]["0"]["attn"]
    kernels = [attn[name]["kernel"].reshape(24, -1) for name in ("q", "k", "v")]
    joined = {"qkv": {"kernel": jnp.concatenate(kernels, axis=1)}, "o": attn["o"]}
    blocks = {"0": {**params["blocks"]["0"], "attn": joined}}
    logits, _, _ = run(parts, params)
    close(run(fused, {**params, "blocks": blocks})[0], logits)
    spec = fused.model.matrix_specs["blocks/0/attn/qkv/kernel"]
    widths = [kernel.shape[1] for kernel in kernels]
    assert spec == MatrixSpec((0,), (1,), split=tuple(widths))
    assert widths == ([24, 24, 24] if kv_heads == 0 else [24, 12, 12])


@pytest.mark.slow
def test_shared_keys_and_values_are_copies_for_each_query(lm, shake):
    """2 heads of keys for 4 of queries: 0 and 1 read the first, 2 and 3 the second."""
    heads = {"num_heads": 4, "embed_dim": 32}
    grouped, full = lm(num_kv_heads=2, **heads), lm(**heads)
    params = shake(grouped.start[0])
    attn = params["blocks"]["0"]["attn"]
    assert attn["k"]["kernel"].shape == (32, 2, 8)
    copies = {
        name: {"kernel": attn[name]["kernel"][:, np.array([0, 0, 1, 1])]}
        for name in ("k", "v")
    }
    blocks = {"0": {**params["blocks"]["0"], "attn": {**attn, **copies}}}
    close(run(full, {**params, "blocks": blocks})[0], run(grouped, params)[0])


def test_as_many_key_heads_as_heads_is_the_default(lm):
    default, explicit = lm(), lm(num_kv_heads=2)
    assert tree.digest(default.start) == tree.digest(explicit.start)
