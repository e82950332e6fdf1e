"""Processes of a job: where devices lie, who loads which rows, who decides."""

from __future__ import annotations

import json

import pytest


@pytest.mark.parametrize("count", [2, 4])
def test_processes_agree(job, count):
    ended = job.ends(job.start(["tests/processes/agree_worker.py"], processes=count))
    assert [e.code for e in ended] == [0] * count, ended
    told = [
        json.loads(line.removeprefix("FOUND "))
        for e in ended
        for line in e.said.splitlines()
        if line.startswith("FOUND ")
    ]
    assert [t["first"] for t in told] == [True] + [False] * (count - 1)
    for me, found in enumerate(told):
        assert found["decided"] == {"from": 0}
        assert found["any"] == [True, False]
        assert found["sums"] == [4.0 * count] * 2
        # One process for each replica; the other axes inside.
        assert found["replica"] == [[i, i] for i in range(count)]
        assert found["data"] == [i for i in range(count) for _ in range(2)]
        # `fsdp` over processes, `data` inside each.
        assert found["hybrid"] == [list(range(count))] * 2
        assert found["rows"] == {"share": [me, count], "same": True}
        assert found["tensor"] == {"share": [0, 1], "same": True}
        prefix = "" if me == 0 else "process 0: "
        assert found["refused"] == f"{prefix}no such folder"
        assert "not one piece" in found["scattered"]
        assert "without any" in found["idle"]
    slow = told[0]["slow"]
    assert slow is None if count == 2 else "make their product 4" in slow
