"""The user's own files."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

import pytest

from jopt.data import load
from jopt.errors import ConfigError, DataError, JoptWarning

TEXT = bytes(range(1, 256)) + b"\r\n\xc3\xa9" * 30


def write(path, data=TEXT):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def whole(splits, document):
    corpora = (splits.train, splits.validation, splits.test)
    return b"".join(
        c.tokens[c.offsets[document] : c.offsets[document + 1]].tobytes()
        for c in corpora
    )


def test_a_file_is_one_document_with_its_bytes_as_they_are(tmp_path):
    splits = load(path=write(tmp_path / "poem.tex"))
    assert splits.train.names == ("poem.tex",)
    assert splits.train.domain_names == (".",)
    assert whole(splits, 0) == TEXT
    assert splits.train.tokens.size == len(TEXT) * 90 // 100


def test_a_folder_gives_documents_in_order_and_domains_by_sub_folder(tmp_path):
    write(tmp_path / "prose" / "deep" / "two.MD", b"two" * 100)
    write(tmp_path / "prose" / "one.txt", b"one" * 100)
    write(tmp_path / "lyric" / "three.md", b"three" * 100)
    write(tmp_path / "top.txt", b"top" * 100)
    write(tmp_path / ".git" / "config.txt", b"hidden")
    write(tmp_path / "lyric" / ".hidden.txt", b"hidden")
    train = load(path=str(tmp_path)).train
    assert train.names == (
        "lyric/three.md",
        "prose/deep/two.MD",
        "prose/one.txt",
        "top.txt",
    )
    assert train.domain_names == (".", "lyric", "prose")
    assert train.domains.tolist() == [1, 2, 2, 0]


def test_a_folder_without_text_suffixes_gives_all_files(tmp_path):
    write(tmp_path / "a.py", b"a" * 100)
    write(tmp_path / "README", b"b" * 100)
    assert load(path=tmp_path).train.names == ("README", "a.py")


def test_files_that_are_not_read_are_reported(tmp_path):
    write(tmp_path / "a.txt")
    write(tmp_path / "sub" / "table.csv")
    with pytest.warns(JoptWarning, match=r"1 others are not read: sub/table\.csv"):
        splits = load(path=tmp_path)
    assert splits.train.names == ("a.txt",)


def test_linked_files_and_folders_are_read(tmp_path):
    write(tmp_path / "elsewhere" / "a.txt")
    root = tmp_path / "root"
    root.mkdir()
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "b.txt").symlink_to(tmp_path / "elsewhere" / "a.txt")
    assert load(path=root).train.names == ("b.txt", "linked/a.txt")


def test_a_link_to_a_folder_above_is_an_error(tmp_path):
    write(tmp_path / "sub" / "a.txt")
    (tmp_path / "sub" / "again").symlink_to(tmp_path)
    with pytest.raises(DataError, match="again is a link to a folder above it"):
        load(path=tmp_path)


def test_a_short_document_among_others_is_kept(tmp_path):
    write(tmp_path / "long.txt")
    write(tmp_path / "short.txt", b"short")
    splits = load(path=tmp_path)
    assert whole(splits, 1) == b"short"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"bad\.txt is empty; remove it or give it content"),
        (b"some\0text" * 9, r"bad\.txt is not text: it has a NUL byte at 4; remove it"),
        ("text".encode("utf-16") * 9, "convert it to UTF-8"),
    ],
)
@pytest.mark.parametrize("in_folder", [True, False])
def test_a_bad_file_is_named(tmp_path, data, message, in_folder):
    bad = write(tmp_path / "bad.txt", data)
    write(tmp_path / "good.txt")
    with pytest.raises(DataError, match=message):
        load(path=tmp_path if in_folder else bad)


def test_a_file_too_short_to_split_is_named(tmp_path):
    with pytest.raises(DataError, match=r"a\.txt: text is too short.*has 10 bytes"):
        load(path=write(tmp_path / "a.txt", b"x" * 10))
    assert load(path=write(tmp_path / "a.txt", b"x" * 11)).test.tokens.size == 1


def test_missing_text(tmp_path):
    with pytest.raises(DataError, match=r"nothing: No such file.*; give a text file"):
        load(path=tmp_path / "nothing")
    with pytest.raises(DataError, match="path of the text is empty"):
        load(path="")
    with pytest.raises(DataError, match="has no files; put text files"):
        load(path=tmp_path)
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nothing")
    with pytest.raises(DataError, match=r"cannot read text file .*gone\.txt"):
        load(path=tmp_path)


def test_a_pipe_is_refused_instead_of_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(DataError, match=r"pipe\.txt is not a regular file"):
        load(path=tmp_path)


@contextlib.contextmanager
def ordinary_user():
    """Root may read everything, so root becomes nobody for a while."""
    own = os.geteuid()
    os.seteuid(own or 65534)
    try:
        yield
    finally:
        os.seteuid(own)


@pytest.fixture
def open_folder():
    """A folder that any user may enter, which pytest's own is not."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.parametrize("name", ["sub", "sub/a.txt"])
def test_what_may_not_be_read_is_named(open_folder, name):
    write(open_folder / "sub" / "a.txt")
    (open_folder / "sub").chmod(0o755)
    (open_folder / name).chmod(0)
    try:
        with (
            ordinary_user(),
            pytest.raises(DataError, match=f"cannot read .*{name}"),
        ):
            load(path=open_folder)
    finally:
        (open_folder / name).chmod(0o700)


def test_an_unknown_name_is_refused():
    with pytest.raises(ConfigError, match="unknown corpus 'c4'; known: plays"):
        load("c4")
