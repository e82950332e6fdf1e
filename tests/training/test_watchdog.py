"""The watchdog fires once in silence, and never while something is finished."""

import threading
import time

from jopt.training._watchdog import Watchdog


def test_silence_is_noticed_once():
    fired = []
    event = threading.Event()

    def on_stall():
        fired.append(threading.current_thread())
        event.set()

    with Watchdog(0.2, on_stall) as watchdog:
        watchdog.beat()
        assert event.wait(20)
        time.sleep(0.5)
    assert len(fired) == 1 and fired[0] is not threading.main_thread()


def test_beats_keep_it_quiet():
    fired = []
    with Watchdog(2.0, lambda: fired.append(1)) as watchdog:
        begin = time.monotonic()
        while time.monotonic() - begin < 4.5:
            watchdog.beat()
            time.sleep(0.01)
    assert not fired


def test_zero_is_off_and_starts_no_thread():
    before = threading.active_count()
    with Watchdog(0.0, lambda: None) as watchdog:
        assert threading.active_count() == before
        watchdog.beat()
