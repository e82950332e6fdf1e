"""A page with the news of a growing run holds what a page of the whole run holds."""

import json
import random

import pytest

from jopt.errors import ReportError
from jopt.reporting import read_metrics, read_status
from jopt.reporting._run_data import RunData


def merged(curves, news):
    """What `merge` in page.js does."""
    out = {}
    for name, curve in curves.items():
        stay = [i for i, step in enumerate(curve["step"]) if step <= news["after"]]
        if stay:
            out[name] = {column: [x[i] for i in stay] for column, x in curve.items()}
    for name, curve in news["curves"].items():
        old = out.setdefault(name, {"step": [], "mean": []})
        for columns in (old, curve):
            if "low" in old or "low" in curve:
                columns.setdefault("low", list(columns["mean"]))
                columns.setdefault("high", list(columns["mean"]))
        for column in old:
            old[column].extend(curve[column])
    return out


def with_ranges(curves):
    return {
        name: {"low": curve["mean"], "high": curve["mean"], **curve}
        for name, curve in curves.items()
    }


@pytest.mark.parametrize("seed", range(4))
def test_news_add_up_to_the_whole(folder, seed):
    """Over attempts, rollbacks, layers and points of several records."""
    rng = random.Random(seed)
    run = folder(**{"train.steps": 2500})
    data = RunData(run.path)
    page, position, step = {}, "", 0
    for _ in range(25):
        if rng.random() < 0.2:
            step = rng.randint(max(step - 300, 0), step)
            run.start(step)
        count = rng.randint(0, 120)
        run.train(step + 1, step + count)
        step += count
        if rng.random() < 0.5:
            run.layers(*([step] if step else []))
            run.evaluate(step, 2.0)
        data.refresh()
        news = data.since(position)
        page, position = merged(page, news), news["at"]
        fresh = RunData(run.path)
        whole = fresh.since("")["curves"]
        assert with_ranges(page) == with_ranges(whole)
    assert len(data.records) == len([r for r in read_metrics(run.path / "metrics.jsonl")
                                     if "event" not in r])  # fmt: skip


def test_only_what_is_new_is_sent(folder):
    run = folder(**{"train.steps": 1000})
    run.start(0)
    run.train(1, 900)
    data = RunData(run.path)
    position = data.position
    run.train(901, 903)
    data.refresh()
    news = data.since(position)
    # A column of a heat map holds 5 steps, and 900 ends one.
    assert news["after"] == 900
    assert news["curves"]["train/loss"]["step"] == [901, 902, 903]
    assert data.since(news["at"])["curves"] == {}


def test_half_a_line_is_read_when_it_is_whole(folder):
    run = folder()
    run.start(0)
    run.train(1, 3)
    run.append('{"step": 4, "tokens": 40')
    data = RunData(run.path)
    assert data.records[-1]["step"] == 3
    run.append('96, "train/loss": 1.5, "wall_secs": 9.0}\n')
    data.refresh()
    assert (data.records[-1]["step"], data.records[-1]["tokens"]) == (4, 4096)
    # What a kill left for good, then a new attempt; and bytes that are no text at all.
    run.append('{"step": 5, "tok\n')
    with (run.path / "metrics.jsonl").open("ab") as file:
        file.write(b"\xff\xfe\n12\n[]\n")
    run.train(5, 5)
    data.refresh()
    assert [r["step"] for r in data.records] == [1, 2, 3, 4, 5]


def test_history_tells_what_happened(troubled):
    data = RunData(troubled.path)
    events = data.history.events
    assert [event.kind for event in events] == [
        "damaged", "resumed", "skipped", "rollback"]  # fmt: skip
    damaged, resumed, skipped, rollback = events
    assert resumed.text == ("a new attempt went on from step 10; 2 steps trained again")
    assert damaged.text == (
        "damaged checkpoint 12 set aside; restored step 10 instead, 2 steps repeated"
    )
    assert (skipped.first, skipped.last, skipped.times) == (25, 27, 3)
    assert (rollback.first, rollback.last) == (20, 28)
    assert "from step 28 to step 20" in rollback.text
    assert "after example 224" in rollback.text
    (taken_back,) = data.history.discarded
    assert [step for step, _ in taken_back] == list(range(21, 28))
    # The curve goes through steps 21 to 27 once, with the losses that stand.
    curve = data.since("")["curves"]["train/loss"]
    assert curve["step"] == list(range(1, 61))
    assert None not in curve["mean"]


def test_skipped_steps_within_a_logging_interval(folder):
    run = folder()
    run.start(0)
    for step, total in ((10, 0.0), (20, 2.0), (30, 3.0), (40, 3.0), (50, 4.0)):
        run.record(step, train__loss=2.0, optim__skipped=total)
    data = RunData(run.path)
    assert [event.text for event in data.history.events] == [
        "3 steps were skipped in steps 11 to 30: not finite, or a spike",
        "1 step was skipped in steps 41 to 50: not finite, or a spike",
    ]
    assert data.history.count("skipped") == 4


def test_throughput_leaves_out_the_time_between_attempts(folder):
    run = folder()
    run.start(0)
    run.train(1, 3)
    run.start(3)
    run.train(4, 5)
    data = RunData(run.path)
    name = "time/overall_tokens_per_sec"
    found = {r["step"]: round(r[name]) for r in data.records if name in r}
    assert found == {2: 10240, 3: 10240, 5: 10240}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", "{", "is not a readable run folder"),
        ("config.json", "{}", "config.json has no 'flat_config'"),
        ("config.json", "[]", "is not a readable run folder"),
        ("status.json", '{"stat', "status.json is not a readable JSON file"),
    ],
)
def test_what_is_wrong_with_a_folder_is_named(folder, name, content, message):
    run = folder()
    run.write(name, content)
    with pytest.raises(ReportError, match=message):
        RunData(run.path)


def test_a_run_before_its_first_record(folder):
    run = folder()
    (run.path / "metrics.jsonl").unlink()
    data = RunData(run.path)
    assert data.status.state == "pending"
    news = data.since(data.position)
    assert news["curves"] == {} and json.dumps(news)


def test_a_folder_that_is_being_deleted_is_pending_and_not_lost(folder, monkeypatch):
    run = folder()
    run.status("running", step=5)
    assert read_status(run.path).state == "lost"  # a copy of a run has no lock
    status = run.path / "status.json"
    monkeypatch.setattr("time.sleep", lambda secs: status.unlink())
    assert read_status(run.path).state == "pending"
    assert read_status(run.path).state == "pending"  # not even a status any more
