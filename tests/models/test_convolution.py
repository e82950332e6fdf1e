"""The convolution of the models of images beside JAX's own."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jopt.errors import ConfigError
from jopt.models._convolution import conv_general_dilated

AXES = ("NHWC", "HWIO", "NHWC")
CASES = [
    ((2, 6, 5, 3), (3, 3, 3, 4), (1, 1), ((1, 1), (1, 1))),
    ((2, 7, 8, 3), (3, 3, 3, 2), (2, 2), ((1, 1), (1, 1))),
    ((1, 9, 9, 1), (5, 5, 1, 2), (2, 1), ((2, 2), (0, 1))),
    ((2, 4, 4, 2), (1, 1, 2, 3), (2, 2), ((0, 0), (0, 0))),
]


def arrays(shape, kernel_shape):
    rng = np.random.default_rng(0)
    return tuple(jnp.asarray(rng.standard_normal(s)) for s in (shape, kernel_shape))


def own(x, kernel, strides, padding):
    numbers = jax.lax.conv_dimension_numbers(x.shape, kernel.shape, AXES)
    return conv_general_dilated(x, kernel, strides, padding, dimension_numbers=numbers)


def theirs(x, kernel, strides, padding):
    return jax.lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=AXES
    )


@pytest.mark.parametrize(("shape", "kernel_shape", "strides", "padding"), CASES)
def test_values_and_all_derivatives_are_those_of_jax(
    shape, kernel_shape, strides, padding
):
    with jax.enable_x64(True):
        at = arrays(shape, kernel_shape)
        along = jax.tree.map(jnp.cos, at)

        def everything(convolution):
            def loss(pair):
                return jnp.sum(jnp.sin(convolution(*pair, strides, padding)))

            gradient = jax.grad(loss)
            both = jax.tree.map(lambda a, b: jnp.stack([a, b]), at, along)
            return (
                convolution(*at, strides, padding),
                jax.jvp(loss, (at,), (along,)),
                gradient(at),
                jax.jvp(gradient, (at,), (along,)),  # a Hessian product
                jax.vmap(gradient)(both),
            )

        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11),
            jax.jit(lambda: everything(own))(),
            jax.jit(lambda: everything(theirs))(),
        )


def test_derivatives_in_a_loop_have_the_axes_that_a_cpu_multiplies_fast():
    x, kernel = arrays((2, 6, 6, 3), (3, 3, 3, 4))

    def axes(convolution):
        def loss(pair):
            return jnp.sum(convolution(*pair, (1, 1), ((1, 1), (1, 1))) ** 2)

        def hessian_product(kernel):
            at = x, kernel
            along = jnp.zeros_like(x), kernel
            return jax.jvp(jax.grad(loss), (at,), (along,))[1][1]

        def looped(kernel):
            return jax.lax.fori_loop(0, 3, lambda _, k: hessian_product(k), kernel)

        text = jax.jit(looped).lower(kernel).compile().as_text()
        return set(re.findall(r"dim_labels=([\w>-]+)", text))

    assert axes(own) == {"b01f_01io->b01f"}
    # Weak: if JAX or XLA put them in order, our convolution is not needed any more.
    assert axes(theirs) != {"b01f_01io->b01f"}


def test_gradients_of_shards_add_up():
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    x, kernel = arrays((2, 6, 6, 3), (3, 3, 3, 4))

    def gradient(convolution):
        def shard(x, kernel):
            def loss(kernel):
                return jnp.sum(convolution(x, kernel, (1, 1), ((1, 1), (1, 1))) ** 2)

            return jax.grad(loss)(kernel)  # summed over shards, since kernel is whole

        rows, whole = (jax.sharding.PartitionSpec(*axes) for axes in (("data",), ()))
        return jax.shard_map(shard, mesh=mesh, in_specs=(rows, whole), out_specs=whole)

    np.testing.assert_allclose(
        jax.jit(gradient(own))(x, kernel), gradient(theirs)(x, kernel), rtol=1e-5
    )


@pytest.mark.parametrize(
    "options", [{"feature_group_count": 3}, {"rhs_dilation": (2, 2)}, {"new": 2}]
)
def test_what_it_cannot_do_is_refused(options):
    x, kernel = arrays((2, 6, 6, 3), (3, 3, 3, 4))
    numbers = jax.lax.conv_dimension_numbers(x.shape, kernel.shape, AXES)
    with pytest.raises(ConfigError, match="without dilation, groups"):
        conv_general_dilated(
            x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=numbers, **options
        )
