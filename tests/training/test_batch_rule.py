"""When a batch grows and shrinks, and that host and device agree on it."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jopt.errors import ConfigError
from jopt.training import _batch_rule
from jopt.training._batch_rule import BatchRule, after_skipped, after_step
from jopt.training._batch_sizes import MICROBATCHES_AHEAD, BatchSizes, batch_sizes
from jopt.training._config import default_config
from jopt.training._config_checks import validate

RULE = BatchRule(
    rows=4,
    first=2,
    smallest=1,
    largest=8,
    theta=2.0,
    ema_decay=0.5,
    every_steps=2,
    min_dwell_steps=4,
    geometry="sign",
)


@pytest.mark.parametrize(
    ("size", "scale", "since", "expected"),
    [
        (2, 4.1, 4, 4),  # 8 < 2 * 4.1
        (2, 4.0, 4, 2),
        (2, 1.6, 4, 2),  # 8 = 5 * 1.6
        (2, 1.5, 4, 1),
        (2, 4.1, 3, 2),  # too early
        (8, 100.0, 4, 8),  # the largest
        (1, 0.0, 4, 1),  # the smallest
        (2, math.nan, 4, 2),
        (2, math.inf, 4, 4),
    ],
)
def test_next_size(size, scale, since, expected):
    found = _batch_rule.next_size(RULE, jnp.int32(size), scale, jnp.int32(since))
    assert found == expected and found.dtype == jnp.int32


@pytest.mark.parametrize("theta", [1.5, 2.0, 4.0])
def test_theta_in_terms_of_the_noise_scale_without_bias(theta):
    """With S^2 = G^2 + N^2 it grows below (theta - 1) B_true, and shrinks above 4 x."""
    rule = RULE._replace(theta=theta)
    edge = 4 * rule.rows / (theta - 1)  # B_true at the edge, at 4 microbatches
    for true, expected in (
        (1.01 * edge, 8),
        (0.99 * edge, 4),
        (0.26 * edge, 4),
        (0.24 * edge, 2),
    ):
        batch = 4 * rule.rows
        biased = batch * true / (batch + true)
        since = jnp.int32(4)
        found = _batch_rule.next_size(rule, jnp.int32(4), jnp.float32(biased), since)
        assert found == expected, true / edge


@functools.partial(jax.jit, static_argnums=(0, 3))
def one_step(rule, state, signal, size):
    pairs = {"sign": (signal, jnp.float32(1)), "euclidean": (signal, jnp.float32(2))}
    due = _batch_rule.is_due(rule, state, size)
    return after_step(rule, state, size, pairs, due)


skipped_step = jax.jit(after_skipped, static_argnums=(0, 2))


def drive(rule, signals, skipped=()):
    """States, and which steps were measured, with noise 1 at every step."""
    state = _batch_rule.first_state(rule, ("sign", "euclidean"))
    states, measured = [state], []
    for number, signal in enumerate(signals):
        size = int(state.sizes[0])
        if number in skipped:
            state = skipped_step(rule, state, size)
        else:
            measured += [number] * bool(_batch_rule.is_due(rule, state, size))
            state = one_step(rule, state, jnp.float32(signal), size)
        states.append(state)
    return states, measured


def sizes(states):
    return [int(state.sizes[0]) for state in states]


def test_a_decision_acts_two_steps_later_and_averages_begin_again():
    states, measured = drive(RULE, [1.0] * 15)
    # Measured at steps 1 and 3 (from 0); decided at 3; used from 5; 8 is the largest.
    assert sizes(states) == [2] * 5 + [4] * 5 + [8] * 6
    assert measured == [1, 3, 6, 8, 11, 13]
    consumed = np.cumsum([0, *(4 * n for n in sizes(states)[:-1])])
    assert [int(s.consumed) for s in states] == consumed.tolist()
    assert [int(s.since) for s in states[:7]] == [0, 1, 2, 3, 4, 0, 1]
    assert float(states[5].signal["sign"]) == 0.0
    # The last known scale stays: B (N / S)^2 of both geometries.
    assert math.isnan(states[1].noise_scale["sign"])
    found = [float(states[n].noise_scale["sign"]) for n in (2, 5, 6, 7)]
    assert found == [8.0, 8.0, 8.0, 16.0]
    assert float(states[2].noise_scale["euclidean"]) == 32.0


def test_the_average_is_taken_before_the_ratio():
    states, _ = drive(RULE, [9.0, 1.0, 9.0, 4.0])
    signal, noise = 0.5 * 0.5 * 1 + 0.5 * 4, 0.5 * 0.5 + 0.5
    assert float(states[4].noise_scale["sign"]) == pytest.approx(
        8 * (noise / signal) ** 2
    )


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_measurement_that_is_not_finite_does_not_count(bad):
    states, _ = drive(RULE, [1.0, bad, 1.0, 1.0])
    assert float(states[2].signal["sign"]) == 0.0
    assert float(states[4].noise_scale["sign"]) == 8.0
    assert sizes(states) == [2] * 5


def test_a_skipped_step_uses_up_its_examples_and_a_change_comes_in_time():
    plain, _ = drive(RULE, [1.0] * 8)
    for number in range(3, 7):
        states, _ = drive(RULE, [1.0] * 8, skipped=(number,))
        # Only what the skipped step did not see is later.
        assert sizes(states)[: number + 2] == sizes(plain)[: number + 2]
        used = 4 * np.array(sizes(states)[:-1])
        assert int(states[-1].consumed) == used.sum()
    # Decided at step 3, used from step 5, although step 4 was skipped.
    states, _ = drive(RULE, [1.0] * 6, skipped=(4,))
    assert sizes(states)[4:6] == [2, 4]
    assert float(states[5].signal["sign"]) == 0.0 == int(states[5].since)


def adaptive(**values):
    config = default_config()
    config.train.update(steps=10, batch_size=8, accumulation=2)
    own = config.train.adaptive_batch
    own.update(enabled=True, max_batch_size=32, min_batch_size=4)
    for key, value in values.items():
        config.update_from_flattened_dict({key: value})
    return config


def test_host_and_device_agree_and_the_examples_are_used_up():
    config = adaptive(**{"train.steps": 21})
    assert batch_sizes(config) == (4, 8, 16, 32)
    states, _ = drive(RULE, [1.0] * 20)
    for first in (0, 3, 4, 5, 6):  # as after a resume, also around a change
        host = BatchSizes(config, first, states[first])
        pending, number = None, first
        while not host.over:
            left = 21 * 8 - host.consumed
            assert host.consumed == int(states[number].consumed)
            expected = min(int(states[number].sizes[0]) * 4, left)
            # What is left at the end is cut into sizes that there are.
            assert host.rows == max(n for n in (4, 8, 16, 32) if n <= expected)
            host.took()
            if pending is not None:
                host.see({MICROBATCHES_AHEAD: pending.sizes[1]})
            number += 1
            pending = states[number]
        assert host.consumed == 21 * 8


def test_a_fixed_batch_has_the_steps_of_the_config():
    config = adaptive(**{"train.adaptive_batch.enabled": False})
    host = BatchSizes(config, 8, {})
    assert (host.consumed, host.rows, host.count, host.over) == (64, 8, 2, False)
    host.took()
    host.see({})
    host.took()
    assert host.over and host.record(8, 80) == {}


AB = "train.adaptive_batch"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({f"{AB}.max_batch_size": 24}, "max_batch_size is 24; a batch grows by doubl"),
        ({f"{AB}.max_batch_size": 4}, "max_batch_size is 4; a batch grows by doubling"),
        ({f"{AB}.min_batch_size": 3}, "min_batch_size is 3; a batch shrinks by halv"),
        ({f"{AB}.min_batch_size": 2}, "min_batch_size is 2, less than a microbatch of"),
        (
            {
                f"{AB}.min_batch_size": 12,
                "train.batch_size": 24,
                f"{AB}.max_batch_size": 24,
                "train.accumulation": 6,
            },
            "min_batch_size is 12, 3 microbatches of 4; an even number",
        ),
        ({"train.accumulation": 8}, "halves a batch of one microbatch, whose 1 rows"),
        ({f"{AB}.theta": 1.0}, "theta is 1.0; the measured noise scale is at most"),
        ({f"{AB}.ema_decay": 1.0}, r"ema_decay is 1.0; it lies in \[0, 1\)"),
        ({f"{AB}.every_steps": 0}, "every_steps is 0; it must be at least 1"),
        ({f"{AB}.min_dwell_steps": 0}, "min_dwell_steps is 0; it must be at least 1"),
        ({f"{AB}.geometry": "spectrl"}, "geometry is 'spectrl'.*spectral"),
        ({f"{AB}.learning_rate": "cube"}, "learning_rate is 'cube'; one of"),
    ],
)
def test_one_message_for_each_fault(values, said):
    validate(adaptive())
    config = adaptive()
    if "train.accumulation" in values and values["train.accumulation"] == 8:
        values = values | {f"{AB}.min_batch_size": 1}
    config.update_from_flattened_dict(values)
    with pytest.raises(ConfigError, match=said) as caught:
        validate(config)
    assert len(str(caught.value).splitlines()) == 1
    config.train.adaptive_batch.enabled = False
    validate(config)


def test_odd_accumulation_and_no_largest_size():
    config = adaptive(**{"train.accumulation": 1})
    config.train.update(batch_size=9, accumulation=3)
    config.train.adaptive_batch.update(max_batch_size=None, min_batch_size=None)
    with pytest.raises(ConfigError, match=r"an even train\.accumulation, or 1") as e:
        validate(config)
    assert "max_batch_size is not set" in str(e.value)
