"""Images in shards by path: the same as from files, and noticed when the shard changes."""

import io
import os
from pathlib import Path

import fsspec
import numpy as np
import pytest

from detseg.data.checks.image_checks import equal_files
from detseg.data.images import image_size, inspect_image, read_image
from detseg.data.shard_cache import TOGETHER, ShardCache
from detseg.data.shard_members import content_size, member_path, place_of, read_content, shard_numbers
from detseg.data.tar_shards import members
from detseg.reading import FileError
from tests.data.annotation_samples import write_picture
from tests.data.test_tar_shards import shard


@pytest.fixture
def pictures(tmp_path):
    return [write_picture(tmp_path / name, 40, 30, seed) for seed, name in enumerate(("a.jpg", "b.png", "c.webp"))]


def packed(pictures, place):
    content = shard(*((f"x/{path.name}", path.read_bytes()) for path in pictures))
    return content, [member_path(place, m, m.content()) for m in members(io.BytesIO(content))]


def test_images_are_those_of_the_files(pictures, tmp_path):
    content, paths = packed(pictures, str(tmp_path / "s.tar"))
    (tmp_path / "s.tar").write_bytes(content)
    for file, path in zip(pictures, paths, strict=True):
        np.testing.assert_array_equal(read_image(path), read_image(file))
        assert (image_size(path), inspect_image(path)) == (image_size(file), inspect_image(file))
        assert (read_content(path), content_size(path)) == (file.read_bytes(), file.stat().st_size)
        assert Path(path).name == file.name
        assert read_content(Path(path)) == read_content(path)
    copy = write_picture(tmp_path / "copy.jpg", 40, 30, 0)
    assert equal_files([*paths, str(pictures[1]), str(copy)]) == [[0, 4], [1, 3]]


def test_paths_say_where_bytes_are():
    assert place_of("a b/t.tar#1+2+0123456789abcdef/x/y.tar#3.jpg") == (
        *("a b/t.tar", 1, 2, "0123456789abcdef"),
        "x/y.tar#3.jpg",
    )
    assert place_of(Path("s3://bucket/t.tar#1+2+0123456789abcdef/y.jpg")).shard == "s3://bucket/t.tar"
    for path in ("a.jpg", "t.tar/a.jpg", "t.tar#1/a.jpg", "t.tar#1+2+xyz/a.jpg", ""):
        assert place_of(path) is None


def test_shards_are_numbered_as_they_come():
    paths = [f"{name}.tar#1+2+0123456789abcdef/{row}.jpg" for row, name in enumerate("baab")]
    assert shard_numbers(np.array(paths)).tolist() == [0, 1, 1, 0]
    assert shard_numbers(np.array(["x.jpg", paths[0]])).tolist() == [0, 1]
    assert shard_numbers(np.array(["x.jpg", "y.jpg"])) is None
    assert shard_numbers(np.zeros(0, np.str_)) is None


@pytest.mark.parametrize("change", ["other", "shorter", "missing"])
def test_a_shard_that_has_changed_is_noticed(pictures, tmp_path, change):
    content, paths = packed(pictures, str(tmp_path / "s.tar"))
    if change != "missing":
        (tmp_path / "s.tar").write_bytes(content[:700] if change == "shorter" else content[::-1])
    with pytest.raises(FileError, match=r"s\.tar.*(no longer what it was|No such file)"):
        read_content(paths[0])
    with pytest.raises(ValueError, match=r"s\.tar"):
        read_image(paths[0])


def test_members_of_what_is_no_file_or_of_no_file_s_length_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.tar")
    (tmp_path / "zeros.tar").symlink_to("/dev/zero")
    (tmp_path / "short.tar").write_bytes(b"x" * 10)
    for name, what in (("pipe", "a pipe"), ("zeros", "a device"), ("short", "ends before it")):
        with pytest.raises(FileError, match=rf"{name}\.tar.* {what}"):
            read_content(f"{tmp_path}/{name}.tar#0+{10**17}+0123456789abcdef/x.png")
    assert place_of(f"a.tar#{'1' * 5000}+1+0123456789abcdef/x.png") is None


def test_of_a_remote_shard_that_was_written_anew_the_old_copy_is_dropped(pictures, tmp_path, monkeypatch):
    cache = ShardCache(tmp_path, TOGETHER * 10**6)
    monkeypatch.setattr("detseg.data.shard_members.shard_cache", lambda: cache)
    files = fsspec.filesystem("memory")
    for chosen in (pictures, pictures[::-1]):
        content, paths = packed(chosen, "memory://anew/s.tar")
        files.pipe("/anew/s.tar", content)
        assert [read_content(path) for path in paths] == [file.read_bytes() for file in chosen]
    with pytest.raises(FileError, match="no longer what it was"):
        read_content(packed(pictures, "memory://anew/s.tar")[1][0])
    files.rm("/anew", recursive=True)
