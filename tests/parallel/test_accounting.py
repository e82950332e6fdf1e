"""Bytes from programs, and seconds from bytes."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from jopt.errors import ConfigError
from jopt.parallel import (
    ARCHETYPES,
    Collective,
    all_reduce_seconds,
    collectives,
    cross_replica_bytes,
    default_sends,
    relative_time,
    step_seconds,
    wire_bytes,
)
from jopt.parallel._replica_groups import replica_groups

WORKER = Path(__file__).with_name("programs_worker.py")
# As a mesh of eight devices, which this process has not.
MESH = SimpleNamespace(
    axis_names=("replica", "data"), shape={"replica": 4, "data": 2}, size=8
)
ACROSS = ((0, 2, 4, 6), (1, 3, 5, 7))
WITHIN = ((0, 1), (2, 3), (4, 5), (6, 7))


@pytest.mark.parametrize(
    ("spelling", "expected"),
    [
        ("{{0,2,4,6},{1,3,5,7}}", ACROSS),
        ("{}", (tuple(range(8)),)),
        ("[4,2]<=[8]", WITHIN),
        ("[2,4]<=[4,2]T(1,0)", ACROSS),
        ("mesh['replica'=4,'data'=2] {'replica'}", ACROSS),
        ("mesh['axis_0'=4,'axis_1'=2] {'axis_1'}", WITHIN),
        ("mesh['a'=4,'b'=2] {'a','b'}", (tuple(range(8)),)),
        ("mesh['a'=2,'b'=1,'c'=4], device_ids=([4,2]T(1,0)) {'a'}", WITHIN),
        ("mesh['a'=2,'b'=2], device_ids=(0,2,1,3) {'a'}", ((0, 1), (2, 3))),
        ("mesh['a'=8] {'a':(1)4}", ACROSS),
        ("mesh['a'=8] {'a':(4)2}", WITHIN),
        ("mesh['a'=8] {'a':(2)2}", ((0, 2), (1, 3), (4, 6), (5, 7))),
    ],
)
def test_every_spelling_of_groups(spelling, expected):
    line = f"all-gather(%x), channel_id=1, replica_groups={spelling}, dimensions={{0}}"
    found = replica_groups(f"{line}, use_global_device_ids=true", 1, 8)
    assert sorted(map(sorted, found)) == sorted(map(list, expected))


def test_groups_of_replicas_take_all_their_partitions():
    line = " all-reduce(%x), channel_id=1, replica_groups={{0},{1}}, to_apply=%add"
    assert replica_groups(line, 2, 2) == ((0, 1), (2, 3))


def test_an_unknown_spelling_is_an_error():
    with pytest.raises(ConfigError, match=r"'v9\(0..7\)' cannot be read"):
        replica_groups("all-reduce(%x), replica_groups=v9(0..7)", 1, 8)


# Asynchronous operations, as a GPU or TPU compiler prints them.
ASYNC = """\
HloModule step, replica_count=1, num_partitions=8

ENTRY %main (p: f32[4]) -> f32[8] {
  %p = f32[4]{0} parameter(0)
  %s = (f32[4], f32[2,2]) all-reduce-start(%p, %p), channel_id=1, \
replica_groups=[2,4]<=[4,2]T(1,0), use_global_device_ids=true, to_apply=%add
  %d = (f32[4], f32[2,2]) all-reduce-done(%s)
  %g = ((f32[4]), (f32[8])) all-gather-start(%p), channel_id=2, \
replica_groups=[4,2]<=[8], dimensions={0}, use_global_device_ids=true
  %c = (f32[4], f32[4], u32[], u32[]) collective-permute-start(%p), \
source_target_pairs={{0,1},{1,0}}
  %t = ((f32[4]), f32[2]{0:T(128)}) reduce-scatter-start(%p), channel_id=4, \
replica_groups=[4,2]<=[8], use_global_device_ids=true, dimensions={0}, to_apply=%add
  %u = f32[2] reduce-scatter-done(%t)
  %a = ((c64[4,2]{1,0}, u8[6]), (c64[4,2]{1,0}, u8[6]), u32[]) all-to-all-start(%q, \
%r), channel_id=5, replica_groups=[2,4]<=[4,2]T(1,0), dimensions={0}
  %b = (c64[4,2], u8[6]) all-to-all-done(%a)
  %v = ((f32[4], f32[6]), (f32[8], f32[12])) all-gather-start(%p, %w), channel_id=6, \
replica_groups=[4,2]<=[8], dimensions={0}, use_global_device_ids=true
  %n = ((u32[]), u32[], u32[]) collective-broadcast-start(%m), channel_id=7, \
replica_groups=[2,4]<=[4,2]T(1,0)
  %h = ((f32[4], f32[2]), (f32[4], f32[2])) all-reduce-start(%p, %t), channel_id=8, \
replica_groups=[2,4]<=[4,2]T(1,0), use_global_device_ids=true, to_apply=%add
  ROOT %e = f32[8] all-gather-done(%g)
}
"""


def test_started_operations_count_once_and_by_their_results():
    found = collectives(ASYNC, MESH)
    assert [(c.kind, c.size, c.crosses) for c in found] == [
        ("all-reduce", 32, True),
        ("all-gather", 32, False),
        ("collective-permute", 16, False),
        ("reduce-scatter", 8, False),
        ("all-to-all", 8 * 8 + 6, True),
        ("all-gather", 32 + 48, False),
        ("collective-broadcast", 4, True),
        ("all-reduce", 24, True),
    ]
    assert cross_replica_bytes(ASYNC, MESH) == 32 + 70 + 4 + 24
    assert cross_replica_bytes(ASYNC, MESH, "data") == 48 + 8 + 80


def test_another_mesh_is_an_error():
    small = SimpleNamespace(axis_names=("replica",), shape={"replica": 4}, size=4)
    with pytest.raises(ConfigError, match="only 4"):
        collectives(ASYNC, small)
    with pytest.raises(ConfigError, match="no 'slow'"):
        collectives(ASYNC, MESH, "slow")


@pytest.mark.devices
def test_compiled_programs(on_devices):
    told = json.loads(on_devices(8, WORKER))
    total = told.pop("bytes")
    programs = {
        name: [Collective(*fields) for fields in found] for name, found in told.items()
    }
    kinds = {c.kind if c.crosses else f"inner {c.kind}": c for c in programs["kinds"]}
    assert {k: (c.size, c.times, c.in_loop) for k, c in kinds.items()} == {
        "all-reduce": (256, 1, False),
        "inner all-reduce": (256, 1, False),
        "collective-permute": (256, 5, True),
        "all-gather": (1024, 1, False),
    }
    ((_, branch),) = kinds["all-gather"].depends
    assert branch == 1
    assert total == 256 + 5 * 256 + 0.25 * 1024
    # Nobody can know how long a loop with a condition takes.
    unknown = [c for c in programs["until"] if c.kind == "all-reduce"]
    assert unknown
    assert all(c.depends[0][1] is None and c.in_loop for c in unknown)
    # The gradient of shared weights: seven layers, summed over the replicas.
    summed = [c for c in programs["jit"] if c.crosses]
    assert {(c.kind, c.size * c.times) for c in summed} <= {
        ("all-reduce", 7 * 32 * 16 * 4),
        ("all-reduce", 32 * 16 * 4),
    }
    assert summed


LOOP = """\
HloModule step, num_partitions=8

%body (p: f32[4]) -> f32[4] {
  ROOT %r = f32[4] all-reduce(%p), channel_id=1, replica_groups={}, \
use_global_device_ids=true, to_apply=%add
}

ENTRY %main (p: f32[4]) -> f32[4] {
  ROOT %while.1 = f32[4] while(%p), condition=%cond, body=%body
}
"""


def test_what_a_program_cannot_say_is_asked_for():
    with pytest.raises(ConfigError, match=r"while\.1"):
        cross_replica_bytes(LOOP, MESH)
    with pytest.raises(ConfigError, match="trip count"):
        cross_replica_bytes(LOOP, MESH, frequencies=(0.5, 0.5))
    assert cross_replica_bytes(LOOP, MESH, frequencies={"while.1": 3}) == 48


def test_the_figures_of_the_specification():
    # 1e9 parameters in bfloat16 on 8 devices at 10 Gbit/s: 2.81 s.
    assert all_reduce_seconds(2e9, 8, *ARCHETYPES["low"]) == pytest.approx(2.81)
    step = step_seconds("diloco", 1e9, 2, 8, *ARCHETYPES["low"], 30, 0.0)
    assert step == pytest.approx(0.0937, abs=5e-5)
    assert relative_time(0.20, 0.10, 64) == pytest.approx(0.7231, abs=5e-5)
    assert relative_time(0.20, 0.0, 64) == pytest.approx(0.8031, abs=5e-5)


# Streaming DiLoCo (arXiv 2501.18512), 1e9 parameters, H = 100, bfloat16 against 4 bits:
# TB exchanged, and hours alone (infinite bandwidth) and at 1 Gbit/s.
PUBLISHED = (
    {"ddp_tb": 441, "tb": 1.10, "alone": 0.67, "ddp": 109, "hours": 0.88},
    {"ddp_tb": 1767, "tb": 4.42, "alone": 2.7, "ddp": 438, "hours": 3.5},
    {"ddp_tb": 4418, "tb": 11.05, "alone": 6.75, "ddp": 1097, "hours": 8.75},
)


@pytest.mark.parametrize("row", PUBLISHED, ids=["25B", "100B", "250B"])
@pytest.mark.parametrize("replicas", [2, 8])
def test_published_rows_of_streaming_diloco(row, replicas):
    """From the column of data parallelism to that of Streaming DiLoCo.

    Bytes to the digits given. Hours end 7 to 8.5 % above the published ones, of which a
    part is hidden behind compute; bytes of twice the width would be 40 % above.
    """
    ddp, streamed = (
        wire_bytes(default_sends(method, 1e9, 2), replicas)
        for method in ("ddp", "streaming_diloco")
    )
    steps = row["ddp_tb"] / ddp
    assert steps * streamed / 100 == pytest.approx(row["tb"], rel=3e-3)
    # As if all were one step, whose bandwidth is what makes the hours of `ddp`.
    bandwidth = ddp / (row["ddp"] - row["alone"])
    tail = (1e9, 2, replicas, bandwidth, 0.0, 100, row["alone"])
    assert step_seconds("ddp", *tail) == pytest.approx(row["ddp"])
    hours = step_seconds("streaming_diloco", *tail)
    assert 1.06 < hours / row["hours"] < 1.09


def test_steps_agree_with_shares():
    """`relative_time` is the ratio of `step_seconds`, one chip in each island."""
    net = ARCHETYPES["medium"]
    compute = 0.3
    ddp = step_seconds("ddp", 1e8, 4, 4, *net, 1, compute)
    palsgd = step_seconds("palsgd", 1e8, 4, 4, *net, 16, compute, probability=0.2)
    share = 1 - compute / ddp
    np.testing.assert_allclose(palsgd / ddp, relative_time(share, 0.2, 16), rtol=1e-12)


def test_islands_and_one_replica():
    slow = all_reduce_seconds(2e9, 16, *ARCHETYPES["low"])
    fast = all_reduce_seconds(2e9, 4, *ARCHETYPES["high"])
    args = 1e9, 2
    tail = *ARCHETYPES["low"], 10, 1.0
    assert step_seconds("diloco", *args, 4, *tail, chips=16) == pytest.approx(
        1 + fast + slow / 10
    )
    assert step_seconds("diloco", *args, 1, *tail, chips=16) == pytest.approx(
        1 + slow * 1.1
    )
    assert step_seconds("ddp", *args, 4, *tail, chips=16) == pytest.approx(1 + slow)
    assert step_seconds("ddp", *args, 1, *tail) == 1.0  # nobody to talk to
    ring = all_reduce_seconds(2e9, 16, *ARCHETYPES["low"], latency="ring")
    assert ring - slow == pytest.approx(29 * 0.01)
    # Messages follow each other inside an island too: six of them among four chips.
    assert step_seconds(
        "diloco", *args, 4, *tail, chips=16, latency="ring"
    ) == pytest.approx(1 + fast + 5 * 1e-4 + ring / 10)
    with pytest.raises(ConfigError, match="do not divide"):
        step_seconds("diloco", *args, 3, *tail, chips=16)
    with pytest.raises(ConfigError, match="dilocco"):
        step_seconds("dilocco", *args, 4, *tail)
