"""Matrices on a mesh: the same update, and no more sent than has to be."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jopt.errors import ConfigError
from jopt.transforms import scale_by_orthogonalization
from jopt.transforms._balance import EMPTY, Load, share_out
from jopt.transforms._layout import read_layout

# Half the compilation.
FAST = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
SINGLE = 1e-5
# Twice what one run in bfloat16 differs from float32: each rounds in its own order.
HALF = 4e-2


def disagreements(printed):
    found = json.loads(printed)
    assert found
    return {
        name: gap
        for name, gap in found.items()
        if not gap <= (HALF if name == "half" else SINGLE)
    }


@pytest.mark.devices
def test_jit_shard_map_and_pmap_agree_with_one_device(on_devices):
    script = Path(__file__).with_name("mesh_worker.py")
    assert not disagreements(on_devices(4, script, "quick", **FAST))


@pytest.mark.slow
@pytest.mark.devices
def test_every_way_to_distribute_agrees_on_every_mesh(on_devices):
    script = Path(__file__).with_name("mesh_worker.py")
    assert not disagreements(on_devices(4, script, "thorough"))


def check_counts(printed):
    """At most two collectives, of the least size where devices divide the leaves."""
    printed = json.loads(printed)
    assert printed["loop"] == [
        ["all-reduce", "f32", 2 * 2 * 4, True],
        ["all-gather", "f32", 16 * 2 * 4, False],
    ]
    rows = printed["updates"]
    for leaves, side, place, distribute, sent in rows:
        case = (leaves, side, place, distribute, sent)
        kinds = [kind for kind, *_ in sent]
        sizes = [size for *_, size, _ in sent]
        assert not any(in_loop for *_, in_loop in sent), case
        ideal = 4 * 32 * 128 * leaves // 8  # bytes of the matrices that a device has
        padded = -(-leaves // 8) * 4 * 32 * 128
        is_long = place == ("fan-out" if side == "wide" else "fan-in")
        if place == "half":
            assert kinds == ["all-to-all"] * 2, case
            assert {dtype for _, dtype, *_ in sent} == {"u16"}, case
            assert sizes == [ideal // 2] * 2, case
        elif distribute == "replicate":
            assert kinds == ([] if place == "nowhere" else ["all-gather"]), case
            assert sizes == ([] if place == "nowhere" else [8 * ideal]), case
        elif place == "nowhere":
            assert kinds == ["all-gather"], case
            assert sizes == [8 * padded], case
        elif distribute == "gram" and is_long:
            assert kinds == ["all-reduce"] * 3, case
            assert sorted(sizes) == [4 * leaves, *[4 * 32 * 32 * leaves] * 2], case
        else:
            assert kinds == ["all-to-all"] * 2, case
            assert sizes == [padded] * 2, case
            assert leaves % 8 or padded == ideal, case
    return len(rows)


@pytest.mark.slow
@pytest.mark.devices
def test_counts_for_many_numbers_of_leaves(on_devices):
    script = Path(__file__).with_name("counts_worker.py")
    assert check_counts(on_devices(8, script, 3, 8, 11, 16)) == 73


@pytest.mark.parametrize("seed", range(20))
def test_shares_hold_every_matrix_once_and_are_balanced(seed):
    rng = np.random.default_rng(seed)
    sizes = {"a": int(rng.integers(1, 4)), "b": int(rng.integers(1, 5))}
    loads = {
        i: Load(int(rng.integers(1, 20)), float(rng.integers(1, 100)), ("a", "b"))
        for i in range(rng.integers(1, 6))
    }
    shares = share_out(loads, sizes, ("a", "b"))
    workers = sizes["a"] * sizes["b"]
    done = np.zeros(workers)
    for key, load in loads.items():
        slots = shares[key].slots
        assert slots.shape == (workers, -(-load.count // workers))
        held = slots[slots != EMPTY]
        assert sorted(held) == list(range(load.count))
        np.testing.assert_array_equal(
            slots.ravel()[shares[key].positions], np.arange(load.count)
        )
        done += load.cost * (slots != EMPTY).sum(axis=1)
    total = sum(load.count * load.cost for load in loads.values())
    largest = max(load.cost for load in loads.values())
    # What greedy placement promises: nobody is more than one matrix behind.
    assert done.max() <= total / workers + largest


def test_what_is_left_over_goes_to_those_with_the_least_to_do():
    loads = {"big": Load(2, 8.0, ("x",)), "small": Load(2, 1.0, ("x",))}
    shares = share_out(loads, {"x": 4}, ("x",))
    assert shares["big"].occupied.tolist() == [True, True, False, False]
    assert shares["small"].occupied.tolist() == [False, False, True, True]


def test_workers_of_one_axis_are_repeated_along_the_others():
    loads = {"all": Load(2, 4.0, ("x", "y")), "some": Load(1, 1.0, ("y",))}
    shares = share_out(loads, {"x": 2, "y": 2}, ("x", "y"))
    assert shares["all"].occupied.tolist() == [True, True, False, False]
    # Along y both have a worker with 4 to do; the first of them gets it.
    assert shares["some"].slots.tolist() == [[0], [EMPTY]]


def one_device():
    mesh = Mesh(np.array(jax.devices()[:1]), ("data",), axis_types=(AxisType.Auto,))
    return NamedSharding(mesh, PartitionSpec())


def test_a_mesh_of_one_device_changes_nothing():
    assert read_layout({"w": one_device()}) is None
    assert read_layout(None) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shardings": {"w": 3}}, r"shardings\['w'\] is 3; expected a NamedSharding"),
        ({"distribute": "stak"}, "did you mean 'stack'"),
        ({"distribute": "gram", "method": "svd"}, "use distribute='stack'"),
    ],
)
def test_wrong_arguments_fail_when_the_transformation_is_made(settings, message):
    with pytest.raises(ConfigError, match=message):
        scale_by_orthogonalization(**settings)
