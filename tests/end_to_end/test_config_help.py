"""Every misspelt config key is answered with the key that was meant."""

import difflib
import functools
import json
import random
import string
import subprocess
import sys
from pathlib import Path

import numpy as np
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


@functools.cache
def keys_of(config):
    return list(dict(flatten(load_config(str(config)))))


def likeness(key, word):
    return difflib.SequenceMatcher(None, key, word).ratio()


def contenders(keys):
    """A function of (word, key): the keys that may be as near to the word as the key.

    Others have too few letters in common with the word: `quick_ratio` of difflib, for
    all keys at once. To leave them out changes no answer and takes a tenth of the time.
    """
    letters = sorted(set("".join(keys)))
    counts = np.array([[key.count(letter) for letter in letters] for key in keys])
    lengths = counts.sum(axis=1)

    def of(word, key):
        own = [word.count(letter) for letter in letters]
        bounds = 2 * np.minimum(counts, own).sum(axis=1) / (lengths + len(word))
        return [keys[i] for i in np.flatnonzero(bounds + 1e-9 >= likeness(key, word))]

    return of


def wrong_answers(keys, letters):
    """Misspellings of `keys` whose nearest key is not the right one.

    A tie may go either way: `b3` is as near to `b1` as to `b2`.
    """
    near = contenders(keys)
    known = set(keys)
    for key in keys:
        for word in one_letter_away(key, letters):
            found = nearest(word, near(word, key))
            if word in known or found == key:
                continue
            if likeness(found or "", word) != likeness(key, word):
                yield word, key, found


def test_the_key_that_was_meant_is_found():
    # Among the keys of all configs no fewer could be nearer than among those of one.
    keys = dict.fromkeys(key for config in CONFIGS for key in keys_of(config))
    assert list(wrong_answers(list(keys), "x")) == []


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.stem)
def test_the_key_that_was_meant_is_found_for_every_letter(config):
    letters = string.ascii_lowercase + "_0123456789"
    assert list(wrong_answers(keys_of(config), letters)) == []


def sample(count):
    random_ = random.Random(0)
    for _ in range(count):
        config = random_.choice(CONFIGS)
        keys = keys_of(config)
        key = random_.choice(keys)
        words = one_letter_away(key, "x")
        random_.shuffle(words)
        near = (w for w in words if w not in keys and nearest(w, keys) == key)
        yield config, key, next(near)


# Runs train.py in a process for each list of flags, and prints how they ended. They
# are forked from one that has imported what each would import up to the answer.
STARTER = """
import json, os, runpy, sys
import jopt.models, jopt.parallel
import jopt.training._flags, jopt.training.main, jopt.training.presets

ends = []
for flags in json.load(sys.stdin):
    said = os.memfd_create("stderr")
    process = os.fork()
    if not process:
        os.dup2(said, 2)
        sys.argv = ["train.py", *flags]
        runpy.run_path("train.py", run_name="__main__")
        raise AssertionError("train.py came back")
    _, status = os.waitpid(process, 0)
    os.lseek(said, 0, os.SEEK_SET)
    with os.fdopen(said) as file:
        ends.append((os.waitstatus_to_exitcode(status), file.read()))
json.dump(ends, sys.stdout)
"""


@pytest.mark.parametrize("count", [5, pytest.param(50, marks=pytest.mark.slow)])
def test_a_misspelt_key_ends_with_exit_code_2_and_the_right_key(count):
    cases = list(sample(count))
    flags = [[f"--config={config}", f"--config.{word}=1"] for config, _, word in cases]
    done = subprocess.run(
        [sys.executable, "-c", STARTER],
        input=json.dumps(flags),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    ends = json.loads(done.stdout)
    for (config, key, word), (code, said) in zip(cases, ends, strict=True):
        assert code == 2, (config, word, said)
        assert f"unknown key {word}" in said
        assert f"did you mean  {key}  (" in said
        assert "Traceback" not in said


def test_keys_that_are_no_contenders_change_no_answer():
    for config, key, word in sample(50):
        keys = keys_of(config)
        near = contenders(keys)(word, key)
        assert len(near) < len(keys) / 2
        assert nearest(word, near) == nearest(word, keys) == key


def test_the_same_answer_in_process():
    for config, key, word in sample(100):
        with pytest.raises(ConfigError) as caught:
            parse([f"--config={config}", f"--config.{word}=1"])
        assert f"did you mean  {key}  (" in str(caught.value)
