"""WILDS sets on disk: tables, published splits, and cells that cannot be read."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from jopt.data.environments import (
    Asked,
    environment_set,
    read_set,
    wilds_task,
)
from jopt.data.environments._wilds_schemes import IDENTITIES, SCHEMES
from jopt.errors import ConfigError, DataError


def table(path, rows):
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def everything(env):
    return env.source.rows(np.arange(env.source.size))


def names_of(task):
    return [env.name for env in task.envs]


def patches(count, centers, **more):
    """Rows of patches, as many of each hospital, with the labels 0, 1, 0, ..."""
    return [
        {"patient": 4, "node": 1, "x_coord": n, "y_coord": 7, "tumor": n % 2}
        | {"center": n // (count // centers)}
        | {name: value(n) for name, value in more.items()}
        for n in range(count)
    ]


def test_hospitals(tmp_path):
    image = pytest.importorskip("PIL.Image")
    table(tmp_path / "metadata.csv", patches(4, 2))
    slide = "patient_004_node_1"
    for n in range(4):
        file = tmp_path / f"patches/{slide}/patch_{slide}_x_{n}_y_7.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        image.fromarray(np.full((6, 5, 3), n, np.uint8)).save(file)
    task = wilds_task("camelyon17", tmp_path)
    assert names_of(task) == ["hospital 0", "hospital 1"]
    assert everything(task.envs[1])["targets"].tolist() == [0, 1]
    with pytest.raises(DataError, match="download the set with the package wilds"):
        wilds_task("camelyon17", tmp_path / "nowhere")


def test_a_hospital_holds_out_what_is_published(tmp_path):
    """Of each ten patches two; none of the last hospital, so a fifth is drawn there."""
    rows = patches(50, 5, split=lambda n: int(n % 5 == 3 and n < 40))
    table(tmp_path / "metadata.csv", rows)
    task = wilds_task("camelyon17", tmp_path)
    for e, part in enumerate(task.parts(trial_seed=0)):
        assert part.outside.size == 2
        if e < 4:
            assert sorted(part.outside.index) == [3, 8]
        both = [*part.inside.index, *part.outside.index]
        assert sorted(both) == list(range(10))
    other = task.parts(trial_seed=1)[0].inside.index
    assert (other != task.parts(trial_seed=0)[0].inside.index).any(), "another order"
    rows[0]["split"] = 7
    table(tmp_path / "metadata.csv", rows)
    with pytest.raises(DataError, match=r"metadata\.csv, line 2, column split.*'7'"):
        wilds_task("camelyon17", tmp_path)


def reviews(counts, stars=5.0):
    return [
        {"reviewerID": user, "reviewText": f"by {user}", "overall": stars}
        for user, count in counts.items()
        for _ in range(count)
    ]


def test_users(tmp_path):
    rows = reviews({"ann": 1, "bob": 3, "cid": 2, "eve": 4})
    rows[0]["overall"] = 3.0
    table(tmp_path / "reviews.csv", rows)
    task = wilds_task("amazon", tmp_path)
    assert names_of(task) == ["ann", "bob", "cid", "eve"]
    assert task.default_test_envs == (3,)
    batch = everything(task.envs[0])
    assert batch["targets"].tolist() == [2]
    assert bytes(batch["inputs"][0, :7].astype(np.uint8)) == b"by ann\0"
    assert names_of(wilds_task("amazon", tmp_path, min_examples=3)) == ["bob", "eve"]

    asked = Asked(tmp_path, environments=2)
    assert names_of(read_set("amazon", asked)) == ["bob", "eve"]
    assert environment_set("amazon", asked._replace(environments=8)).test_envs == (6, 7)
    with pytest.raises(DataError, match=r"amazon has 6 environments .* found 4"):
        read_set("amazon", asked._replace(environments=6))
    with pytest.raises(ConfigError, match=r"data\.environments says how many"):
        environment_set("amazon")


def test_users_of_the_published_split(tmp_path):
    """0 train, 2 its validation, 3 test; what is left out counts for no user's size."""
    counts = {"ann": 5, "bob": 6, "cid": 9, "dan": 5, "eve": 5, "fay": 4}
    table(tmp_path / "reviews.csv", reviews(counts))
    split = {
        "ann": [0, 0, 0, 2, 4],
        "bob": [0, 0, 0, 0, 2, -1],
        "cid": [1] * 9,
        "dan": [3] * 5,
        "eve": [3, 3, 3, 3, -1],
        "fay": [0, 0, 2, 2],
    }
    rows = [{"split": s, "clean": "-"} for user in counts for s in split[user]]
    table(tmp_path / "splits/user.csv", rows)
    task = wilds_task("amazon", tmp_path)
    assert names_of(task) == ["ann", "bob", "fay", "dan, test", "eve, test"]
    assert task.default_test_envs == (3, 4)
    assert [env.source.size for env in task.envs] == [4, 5, 4, 5, 4]
    held = [sorted(env.held_out.nonzero()[0]) for env in task.envs[:3]]
    assert held == [[3], [4], [2, 3]]
    assert [env.held_out for env in task.envs[3:]] == [None, None]
    asked = Asked(tmp_path, environments=4)
    task = read_set("amazon", asked)
    assert names_of(task) == ["ann", "bob", "fay", "dan, test"]
    assert task.default_test_envs == environment_set("amazon", asked).test_envs == (3,)
    table(tmp_path / "splits/user.csv", rows[1:])
    with pytest.raises(DataError, match=r"user\.csv has 33 rows; .* of the 34 of"):
        wilds_task("amazon", tmp_path)


NOBODY = dict.fromkeys(IDENTITIES, 0)


def comment(text, toxicity, split, **identities):
    row = {"comment_text": text, "toxicity": toxicity, "split": split}
    return {**row, **NOBODY, **identities}


def test_groups_of_comments_and_those_of_the_test(tmp_path):
    comments = [
        comment("a", 0.9, "train", male=1, white=0.5, black=""),
        comment("b", 0.1, "train", male=1),
        comment("c", 0.1, "val", male=1),
        comment("d", 0.1, "train"),
        comment("e", 0.8, "test", male=0.7, white=0.4),
    ]
    path = tmp_path / "all_data_with_identities.csv"
    table(path, comments)
    task = wilds_task("civilcomments", tmp_path)
    groups = ["male, not toxic", "male, toxic", "white, toxic"]
    assert names_of(task) == [*groups, "male, toxic, test"]
    assert task.default_test_envs == (3,)
    assert task.envs[0].held_out.tolist() == [False, True]
    assert task.metric == "accuracy"
    known = environment_set("civilcomments")
    assert known[:4] == (32, (512,), 2, tuple(range(16, 32)))
    assert known.over_tests == "worst"
    full = [
        comment("x", toxicity, split, **{name: 1})
        for name in IDENTITIES
        for toxicity in (0, 1)
        for split in ("train", "val", "test")
    ]
    table(path, full)
    task = read_set("civilcomments", Asked(tmp_path))
    assert task.default_test_envs == known.test_envs
    table(path, [{k: x for k, x in row.items() if k != "split"} for row in full])
    with pytest.raises(DataError, match="has no column split; found"):
        wilds_task("civilcomments", tmp_path)


def test_the_tests_of_hospitals_are_those_that_are_known(tmp_path):
    table(tmp_path / "metadata.csv", patches(10, 5))
    task = read_set("camelyon17", Asked(tmp_path))
    assert task.default_test_envs == environment_set("camelyon17").test_envs == (2,)
    assert task.envs[2].name == "hospital 2"


@pytest.mark.parametrize(
    ("name", "column", "cell", "said"),
    [
        ("camelyon17", "tumor", "", "a number, found ''"),
        ("camelyon17", "patient", "x", "a number, found 'x'"),
        ("camelyon17", "center", "1.5", "a whole number, found '1.5'"),
        ("amazon", "overall", "", "a number, found ''"),
        ("amazon", "overall", "nan", "a number, found 'nan'"),
        ("civilcomments", "toxicity", "", "a number, found ''"),
        ("civilcomments", "male", "yes", "a number, found 'yes'"),
        ("civilcomments", "split", "", r"one of \('train', 'val', 'test'\), found ''"),
    ],
)
def test_a_cell_that_cannot_be_read_is_named(name, column, cell, said, tmp_path):
    good = {
        "camelyon17": patches(2, 1),
        "amazon": reviews({"ann": 2}),
        "civilcomments": [comment("a", 0.9, "train", male=1)] * 2,
    }[name]
    file = tmp_path / SCHEMES[name].table
    table(file, [good[0], {**good[1], column: cell}])
    with pytest.raises(
        DataError, match=rf"{file.name}, line 3, column {column}: expected {said}"
    ):
        wilds_task(name, tmp_path)


def test_rows_that_end_early_and_classes_that_are_not(tmp_path):
    path = tmp_path / "reviews.csv"
    path.write_text("reviewerID,overall,reviewText\nann,5.0\n")
    with pytest.raises(DataError, match=r"line 2, column reviewText.*end of the row"):
        wilds_task("amazon", tmp_path)
    table(path, reviews({"ann": 1}, stars=6))
    with pytest.raises(DataError, match=r"reviews\.csv, line 2: class 5 of 5"):
        wilds_task("amazon", tmp_path)
    path.write_text("reviewerID\nann\n")
    with pytest.raises(DataError, match="no column reviewText, overall; found"):
        wilds_task("amazon", tmp_path)
