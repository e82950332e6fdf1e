"""Sampling: repeatable, causal, bounded by its window, one compiled program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jopt.errors import ConfigError
from jopt.models import generate
from jopt.models._generate import _sample

KEY = jax.random.key(3)
PROMPT = np.array([1, 2, 3])


@pytest.fixture(scope="module")
def trained(shake):
    from jopt.models import transformer_lm

    model = transformer_lm(
        {"vocab_size": 11, "num_layers": 1, "embed_dim": 16, "num_heads": 2}
    )
    params, state = model.init(jax.random.key(0), None)
    return model, shake(params), state


def test_key_and_prompt_decide_the_tokens(trained):
    draw = lambda prompt, key: generate(  # noqa: E731
        *trained, prompt, key=key, num_tokens=20, window=8
    )
    tokens = draw(PROMPT, KEY)
    assert tokens.shape == (20,) and tokens.dtype == jnp.int32
    assert tokens.min() >= 0 and tokens.max() < 11
    np.testing.assert_array_equal(tokens, draw(jnp.asarray(PROMPT), KEY))
    np.testing.assert_array_equal(tokens, draw(bytes(PROMPT.tolist()), KEY))
    assert (tokens != draw(PROMPT, jax.random.key(4))).any()


@pytest.mark.parametrize("length", [1, 5, 9])
def test_greedy_tokens_follow_from_the_last_window(trained, length):
    """Against a loop that runs the model on exactly the context and nothing else."""
    model, params, state = trained
    run = jax.jit(
        lambda ids: model.apply(params, state, {"inputs": ids}, key=None, train=False)[
            0
        ]
    )
    text = [int(i) for i in jax.random.randint(KEY, (length,), 0, 11)]
    drawn = generate(
        *trained, np.array(text), key=KEY, num_tokens=3, temperature=0.0, window=6
    )
    for token in np.asarray(drawn):
        logits = run(jnp.array([text[-6:]]))[0, -1]
        assert int(token) == int(logits.argmax())
        text.append(int(token))


def test_only_the_window_of_a_long_prompt_counts(trained):
    tail = np.array([4, 1, 5, 9, 2, 6, 5, 3])
    short, long = (
        generate(*trained, p, key=KEY, num_tokens=20, window=8)
        for p in (tail, np.concatenate([[7, 7, 7], tail]))
    )
    np.testing.assert_array_equal(short, long)


def test_temperature_and_top_k_limit_the_draw(trained):
    model, params, state = trained
    run = jax.jit(
        lambda ids: model.apply(params, state, {"inputs": ids}, key=None, train=False)[
            0
        ]
    )
    logits = run(jnp.asarray(PROMPT)[None])[0, -1]
    order = np.argsort(-np.asarray(logits))

    def first_tokens(**options):
        keys = jax.random.split(KEY, 200)
        draw = jax.vmap(
            lambda key: generate(
                *trained, PROMPT, key=key, num_tokens=1, window=8, **options
            )
        )
        return np.asarray(draw(keys))[:, 0]

    assert set(first_tokens(top_k=2)) == set(order[:2])
    assert set(first_tokens(temperature=1e-4)) == {order[0]}
    counts = np.bincount(first_tokens(temperature=2.0), minlength=11) / 200
    expected = np.asarray(jax.nn.softmax(logits / 2))
    assert np.abs(counts - expected).max() < 4 * np.sqrt(0.25 / 200)
    assert len(set(first_tokens(temperature=2.0))) > 2


def test_one_program_serves_prompts_keys_and_temperatures(trained):
    generate(*trained, PROMPT, key=KEY, num_tokens=3, window=8)
    programs = _sample._cache_size()
    for prompt in (b"\x01", b"\x02" * 20):
        for temperature in (0.0, 0.5):
            generate(
                *trained,
                prompt,
                key=jax.random.key(9),
                num_tokens=3,
                temperature=temperature,
                window=8,
            )
    assert _sample._cache_size() == programs


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        (b"", {}, "prompt: expected at least one byte"),
        (np.ones((1, 2), int), {}, r"token ids of shape \(P,\), found int64 \(1, 2\)"),
        (np.array([1.0]), {}, "found float64"),
        (b"A", {}, "prompt: expected ids from 0 to 10, found 65 to 65"),
        (PROMPT, {"num_tokens": 0}, "num_tokens: expected at least 1, found 0"),
        (PROMPT, {"window": 0}, "window: expected at least 1, found 0"),
        (PROMPT, {"top_k": 12}, "top_k: expected 1 to vocab_size 11, found 12"),
        (PROMPT, {"temperature": -1.0}, "temperature: expected at least 0, found -1.0"),
        (PROMPT, {"temperature": float("nan")}, "found nan"),
    ],
)
def test_arguments_that_cannot_work(trained, prompt, options, message):
    with pytest.raises(ConfigError, match=message):
        generate(*trained, prompt, key=KEY, **{"num_tokens": 3, **options})
