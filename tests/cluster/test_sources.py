"""What people name of collections, and what is meant by it."""

import uuid

import pytest

from detseg.cluster.sources import collect


@pytest.fixture
def remote():
    """A folder in memory that only fsspec knows."""
    fsspec = pytest.importorskip("fsspec")
    folder = f"memory:///{uuid.uuid4().hex}"  # as fsspec itself writes it
    files = fsspec.filesystem("memory")
    yield folder, lambda name, content=b"": files.pipe_file(f"{folder}/{name}", content)
    files.rm(folder, recursive=True)


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_folders_hold_one_kind(tmp_path):
    touch(tmp_path, "a/x.jpg", "a/deep/y.png", "a/notes.txt", "b/1.tar", "b/0.tar", "c/0.parquet", "d/x.jpg", "d/0.tar")
    a = tmp_path / "a"
    assert collect([str(a)]).images == (str(a / "deep/y.png"), str(a / "x.jpg"))
    assert collect([str(a)], recursive=False).images == (str(a / "x.jpg"),)
    assert collect([str(tmp_path / "b")]).archives == (str(tmp_path / "b/0.tar"), str(tmp_path / "b/1.tar"))
    assert collect([str(tmp_path / "c")]).tables == (str(tmp_path / "c/0.parquet"),)
    with pytest.raises(ValueError, match="d: holds images and tar archives; name one kind by a pattern"):
        collect([str(tmp_path / "d")])
    (tmp_path / "e").mkdir()
    with pytest.raises(ValueError, match=r"e: holds no images, no \.tar archives and no \.parquet files"):
        collect([str(tmp_path / "e")])


def test_braces_and_wild_cards(tmp_path):
    touch(tmp_path, "0.parquet", "1.parquet", "x.jpg", "y.jpg")
    assert collect(["s/{000..002}.tar"]).archives == ("s/000.tar", "s/001.tar", "s/002.tar")
    assert collect([str(tmp_path / "*.parquet")]).tables == (str(tmp_path / "0.parquet"), str(tmp_path / "1.parquet"))
    assert collect([f"{tmp_path}/{{x,y}}.jpg"]).images == (str(tmp_path / "x.jpg"), str(tmp_path / "y.jpg"))
    with pytest.raises(ValueError, match="there are no"):
        collect([str(tmp_path / "*.tar")])


def test_lists_name_images_addresses_and_shards_each_once(tmp_path):
    touch(tmp_path, "photos/x.jpg", "0.tar")
    lines = ["# all", "photos/x.jpg", "https://a.org/y?size=2", "s3://b/z.jpg", "0.tar", "photos/x.jpg", ""]
    (tmp_path / "all.txt").write_text("\n".join(lines))
    found = collect([str(tmp_path / "all.txt"), str(tmp_path / "0.tar")])
    assert found.images == (str(tmp_path / "photos/x.jpg"), "https://a.org/y?size=2", "s3://b/z.jpg")
    assert found.archives == (str(tmp_path / "0.tar"),)
    (tmp_path / "lists.txt").write_text("all.txt\n")
    with pytest.raises(ValueError, match="names another list"):
        collect([str(tmp_path / "lists.txt")])


def test_addresses_of_fsspec(remote):
    folder, put = remote
    for name in ("photos/x.jpg", "photos/deep/y.jpg", "photos/.hidden/z.jpg", "shards/1.tar", "shards/0.tar"):
        put(name)
    put("all.txt", b"photos/x.jpg\nshards/{0,1}.tar\n")
    assert collect([f"{folder}/photos"]).images == (f"{folder}/photos/deep/y.jpg", f"{folder}/photos/x.jpg")
    assert collect([f"{folder}/photos"], recursive=False).images == (f"{folder}/photos/x.jpg",)
    assert collect([f"{folder}/shards"]).archives == (f"{folder}/shards/0.tar", f"{folder}/shards/1.tar")
    assert collect([f"{folder}/shards/*.tar"]).archives == (f"{folder}/shards/0.tar", f"{folder}/shards/1.tar")
    found = collect([f"{folder}/all.txt"])
    assert found.images == (f"{folder}/photos/x.jpg",) and len(found.archives) == 2
