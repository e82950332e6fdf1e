"""Every misspelt config key is answered with the key that was meant."""

import concurrent.futures
import difflib
import random
import string
import subprocess
import sys
from pathlib import Path

import pytest

from jopt.errors import ConfigError, nearest
from jopt.training._config import flatten
from jopt.training._flags import load_config, parse

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*_lm.py"))


def one_letter_away(key, letters):
    """Deleted, replaced, inserted, or two neighbours swapped, at each position."""
    found = set()
    for i in range(len(key) + 1):
        found |= {key[:i] + key[i + 1 :], key[:i] + key[i : i + 2][::-1] + key[i + 2 :]}
        for letter in letters:
            found |= {key[:i] + letter + key[i + 1 :], key[:i] + letter + key[i:]}
    return sorted(found - {key})


def wrong_answers(config, letters):
    """Misspellings of the config's keys whose nearest key is not the right one.

    A tie may go either way: `b3` is as near to `b1` as to `b2`.
    """
    keys = list(dict(flatten(load_config(str(config)))))
    for key in keys:
        for word in one_letter_away(key, letters):
            found = nearest(word, keys)
            if word in keys or found == key:
                continue
            likeness = [
                difflib.SequenceMatcher(None, other, word).ratio()
                for other in (key, found or "")
            ]
            if likeness[0] != likeness[1]:
                yield word, key, found


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_the_key_that_was_meant_is_found(config):
    assert list(wrong_answers(config, "x")) == []


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_the_key_that_was_meant_is_found_for_every_letter(config):
    assert list(wrong_answers(config, string.ascii_lowercase + "_0123456789")) == []


def sample(count):
    random_ = random.Random(0)
    for _ in range(count):
        config = random_.choice(CONFIGS)
        keys = list(dict(flatten(load_config(str(config)))))
        key = random_.choice(keys)
        words = [
            word
            for word in one_letter_away(key, "x")
            if word not in keys and nearest(word, keys) == key
        ]
        yield config, key, random_.choice(words)


def test_a_misspelt_key_ends_with_exit_code_2_and_the_right_key():
    def answer(case):
        config, _, word = case
        return subprocess.run(
            [sys.executable, "train.py", f"--config={config}", f"--config.{word}=1"],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )

    cases = list(sample(20))
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for (config, key, word), done in zip(
            cases, pool.map(answer, cases), strict=True
        ):
            assert done.returncode == 2, (config, word, done.stderr)
            assert f"unknown key {word}" in done.stderr
            assert f"did you mean  {key}  (" in done.stderr
            assert "Traceback" not in done.stderr


def test_the_same_answer_in_process():
    for config, key, word in sample(100):
        with pytest.raises(ConfigError) as caught:
            parse([f"--config={config}", f"--config.{word}=1"])
        assert f"did you mean  {key}  (" in str(caught.value)
