"""Samples of tar shards, as WebDataset groups them, and shards by pattern; damage is an error that names the shard."""

import io
import random
import tarfile

import pytest

from detseg.data.tar_shards import expand_shards, members, open_shard, samples
from detseg.reading import FileError


def shard(*files, form=tarfile.GNU_FORMAT, **more):
    """A tar of files, each a name and a content, or a TarInfo."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form, **more) as tar:
        for one in files:
            info = one if isinstance(one, tarfile.TarInfo) else tarfile.TarInfo(one[0])
            content = b"" if isinstance(one, tarfile.TarInfo) else one[1]
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def special(name, kind, target="a.jpg"):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


class Pipe(io.RawIOBase):
    """A file that cannot seek, and gives little at a time."""

    def __init__(self, content):
        self.rest = io.BytesIO(content)

    def readable(self):
        return True

    def readinto(self, buffer):
        return self.rest.readinto(memoryview(buffer)[:1000])


def read(content):
    whole = list(samples(io.BytesIO(content), "x.tar"))
    assert list(samples(io.BufferedReader(Pipe(content)), "x.tar")) == whole
    return whole


LONG = "a/" * 100 + "long" * 30
FILES = [
    ("./1.jpg", b"one"),
    ("./1.JSON", b"{}"),
    ("b.c/2.seg.png", b"x" * 3000),
    ("b.c/2.cls", b"7"),
    (f"{LONG}.jpg", b""),
    ("ä/ö.jpg", b"\0" * 512),
    (".DS_Store", b"hidden"),
    ("d/._3.jpg", b"hidden"),
    ("__meta__/index.json", b"of a tool"),
    ("no_extension", b""),
]
SAMPLES = [
    ("1", {"jpg": b"one", "json": b"{}"}),
    ("b.c/2", {"seg.png": b"x" * 3000, "cls": b"7"}),
    (LONG, {"jpg": b""}),
    ("ä/ö", {"jpg": b"\0" * 512}),
]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_files_of_a_name_are_a_sample(form):
    folder = special("d/", tarfile.DIRTYPE)
    files = [file for file in FILES if form != tarfile.USTAR_FORMAT or len(file[0]) < 99]
    expected = [sample for sample in SAMPLES if form != tarfile.USTAR_FORMAT or sample[0] != LONG]
    assert read(shard(folder, *files, form=form)) == expected
    assert read(shard(form=form)) == []


def test_offsets_lead_to_the_contents():
    content = shard(*FILES, form=tarfile.PAX_FORMAT)
    found = list(members(io.BytesIO(content)))
    assert [content[one.offset : one.offset + one.size] for one in found] == [one.content() for one in found]
    assert len(found) == 6


def test_samples_are_those_of_webdataset(tmp_path):
    wds = pytest.importorskip("webdataset", reason="the package webdataset is not installed")
    (tmp_path / "x.tar").write_bytes(shard(*FILES[:6]))
    theirs = wds.WebDataset(str(tmp_path / "x.tar"), shardshuffle=False)
    plain = [(s["__key__"].removeprefix("./"), {k: v for k, v in s.items() if not k.startswith("__")}) for s in theirs]
    assert plain == SAMPLES


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([("a.jpg", b""), special("b.jpg", tarfile.SYMTYPE)], "x.tar: b.jpg.*is a link"),
        ([("a.jpg", b""), special("b.jpg", tarfile.LNKTYPE)], "x.tar: b.jpg.*is a link"),
        ([special("b.jpg", tarfile.CHRTYPE)], "x.tar: b.jpg.*a device"),
        ([special("b.jpg", tarfile.FIFOTYPE)], "x.tar: b.jpg.*a device"),
        ([("/etc/a.jpg", b"")], "leads out of a folder"),
        ([("b/../../a.jpg", b"")], "leads out of a folder"),
        ([("a\udcff.jpg", b"")], "header is damaged"),
        ([("a.jpg", b""), ("b.jpg", b""), ("a.json", b"")], "x.tar: a: .*do not follow each other"),
        ([("a.jpg", b""), ("a.JPG", b"")], "x.tar: a: there are two files .jpg"),
    ],
)
def test_what_is_no_plain_sample_is_refused(files, message):
    with pytest.raises(FileError, match=message):
        read(shard(*files))


def test_a_shard_cut_anywhere_is_an_error():
    """tarfile itself takes many of these for complete ones with fewer files."""
    content = shard(*FILES)
    end = len(content.rstrip(b"\0")) // 512 * 512 + 512
    for length in (0, 1, 511, 512, *range(600, end, 333), *range(0, end, 512)):
        with pytest.raises(FileError, match=r"x\.tar"):
            read(content[:length])
    assert len(read(content[: end + 512])) == 4  # one empty block is an end


def test_damaged_bytes_are_an_error_or_change_one_content():
    rng = random.Random(0)
    content = shard(*FILES, form=tarfile.PAX_FORMAT)
    for _ in range(300):
        damaged = bytearray(content)
        for _ in range(rng.choice((1, 1, 4))):
            damaged[rng.randrange(len(content) - 9000)] = rng.randrange(256)
        try:
            found = read(bytes(damaged))
        except FileError as error:
            assert "x.tar" in str(error)
        else:
            assert len(found) == len(SAMPLES) or found == []


@pytest.mark.parametrize("start", [b"\x1f\x8b\x08", b"BZh9", b"\x28\xb5\x2f\xfd"])
def test_compressed_shards_are_named(start):
    with pytest.raises(FileError, match=r"x\.tar: .*it is compressed; decompress"):
        read(start + bytes(range(1, 200)) * 4)


def test_what_follows_the_end_is_an_error():
    one = shard(("a.jpg", b""))
    with pytest.raises(FileError, match=r"x.tar: something follows the end"):
        read(one + one)


def test_sizes_that_no_file_has_ask_for_no_memory(monkeypatch):
    info = tarfile.TarInfo("a.jpg")
    info.size = 2**60
    header = info.tobuf(tarfile.GNU_FORMAT)
    with pytest.raises(FileError, match=r"a.jpg: has .* GB; at most"):
        read(header + bytes(2048))
    info.size = 2**29
    with pytest.raises(FileError, match=r"x.tar: a.jpg"):
        read(info.tobuf() + bytes(2048))


def test_patterns_mean_shards(tmp_path, monkeypatch):
    for name in ("t-08.tar", "t-09.tar", "t-10.tar", "v.tar", "readme.md"):
        (tmp_path / name).write_bytes(shard())
    at = f"{tmp_path}/"
    train = [f"{at}t-08.tar", f"{at}t-09.tar", f"{at}t-10.tar"]
    (tmp_path / "list.txt").write_text("# ours\nt-{08..09}.tar\n\n" + train[2] + "\n")
    for pattern in ("t-{08..10}.tar", "t-*.tar", "t-{08,09,10}.tar", "t-??.tar", "list.txt"):
        assert expand_shards(at + pattern) == train, pattern
    assert expand_shards(str(tmp_path)) == [*train, f"{at}v.tar"]
    assert expand_shards(f"{at}{{a,b}}-{{0..1}}.tar") == [f"{at}{n}.tar" for n in ("a-0", "a-1", "b-0", "b-1")]
    assert expand_shards("s3://b/x-{098..101}.tar") == [f"s3://b/x-{n}.tar" for n in ("098", "099", "100", "101")]
    monkeypatch.chdir(tmp_path)
    assert expand_shards("v.tar") == ["v.tar"]
    assert expand_shards("list.txt")[0] == "./t-08.tar"


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("none-*.tar", "there are no shards"),
        ("{2..1}.tar", "there are no shards"),
        ("{0..999}{0..9999}.tar", "more than 1000000"),
        ("{0..99999999999999999}.tar", "more than 1000000"),
        ("{a,a}.tar", "a.tar comes twice"),
        ("missing.txt", "missing.txt: cannot be read"),
        ("nosuchprotocol://b/*.tar", "nosuchprotocol"),
    ],
)
def test_patterns_that_mean_none_are_errors(pattern, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileError, match=message):
        expand_shards(pattern)


def test_shards_of_a_remote_file_system():
    """fsspec's file system in memory stands for one in a cloud."""
    fsspec = pytest.importorskip("fsspec")
    files = fsspec.filesystem("memory")
    for number in range(3):
        files.pipe(f"/tar_shards/s-{number}.tar", shard((f"{number}.jpg", b"x")))
    files.pipe("/tar_shards/list.txt", b"s-0.tar\ns-2.tar\n")
    try:
        every = [f"memory:///tar_shards/s-{n}.tar" for n in range(3)]
        for pattern in ("memory://tar_shards/s-*.tar", "memory://tar_shards", "memory://tar_shards/"):
            assert [one.replace("///", "//") for one in expand_shards(pattern)] == [
                one.replace("///", "//") for one in every
            ]
        assert expand_shards("memory://tar_shards/list.txt") == [
            "memory://tar_shards/s-0.tar",
            "memory://tar_shards/s-2.tar",
        ]
        with open_shard(every[1]) as file:
            assert list(samples(file)) == [("1", {"jpg": b"x"})]
        with pytest.raises(FileError, match=r"tar_shards/none\.tar"), open_shard("memory://tar_shards/none.tar"):
            pass
    finally:
        files.rm("/tar_shards", recursive=True)
