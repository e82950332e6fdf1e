"""Messages between the sides of a benchmark, and what happens when one fails."""

from __future__ import annotations

import io
import sys
from array import array

import pytest

SIDE = """
import sys
sys.path.insert(0, {folder!r})
from _workers import Floats, serve

class Side:
    def double(self, number):
        print("words that are no message")
        return 2 * number
    def echo(self, arrays):
        return arrays
    def fail(self):
        raise ValueError("as asked")
    def die(self):
        raise SystemExit(3)

serve(Side())
"""


@pytest.fixture
def worker(workers, tmp_path):
    path = tmp_path / "side.py"
    path.write_text(SIDE.format(folder=str(workers.__file__).rpartition("/")[0]))
    with workers.Worker([sys.executable, str(path)]) as worker:
        yield worker


def numbers(workers, *values):
    return workers.Floats((len(values), 1), array("f", values).tobytes())


def test_message_survives_the_pipe(workers):
    arrays = {"x": numbers(workers, 1.0, 2.5), "empty": workers.Floats((0, 3), b"")}
    stream = io.BytesIO()
    workers.send(stream, {"command": "a"}, arrays)
    workers.send(stream, {"command": "b"})
    stream.seek(0)
    assert workers.receive(stream) == ({"command": "a"}, arrays)
    assert workers.receive(stream) == ({"command": "b"}, {})
    assert workers.receive(stream) is None


def test_an_array_of_the_wrong_size_is_refused(workers):
    with pytest.raises(ValueError, match=r"x: shape \(2,\) needs 8 bytes, found 4"):
        workers.send(io.BytesIO(), {}, {"x": workers.Floats((2,), b"1234")})


def test_worker_answers_and_prints_elsewhere(worker, workers):
    assert worker.ask("double", number=21) == 42
    arrays = {"x": numbers(workers, 3.0)}
    assert worker._ask("echo", arrays, {})[1] == arrays


def test_worker_reports_a_failure_and_goes_on(worker, workers):
    with pytest.raises(workers.WorkerError, match="as asked"):
        worker.ask("fail")
    assert worker.ask("double", number=1) == 2


def test_worker_that_dies_says_so(worker, workers):
    with pytest.raises(workers.WorkerError, match="ended with code 3"):
        worker.ask("die")


def test_too_many_cores_is_an_error(workers):
    with pytest.raises(OSError, match=r"threads were asked for|cannot pin"):
        workers.use_cores(10**6)
