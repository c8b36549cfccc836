"""Files and folders that are written: whole or not at all, through no link, under names that every system takes."""

import errno
import os
import socket
import stat

import pytest
from PIL import Image

from detseg.data.formats.locate import read_text
from detseg.data.images import inspect_image, read_image
from detseg.data.shard_members import read_content
from detseg.files import (
    LONGEST,
    WriteError,
    for_libraries,
    inner_folder,
    make_folder,
    new_folder,
    replacing,
    replacing_all,
    safe_name,
    write_atomically,
)
from detseg.json_text import read_buffer, read_bytes
from detseg.reading import FileError, content_of, kind_of_special, require_file


def left(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_there_whole_or_as_it_was(tmp_path):
    path = tmp_path / "deep/er/a.txt"
    write_atomically(path, "Gänse")
    assert path.read_bytes() == "Gänse".encode() and left(path.parent) == ["a.txt"]
    with pytest.raises(KeyError, match="x"), replacing(path) as temporary:
        temporary.write_text("half")
        raise KeyError("x")
    assert path.read_text(encoding="utf-8") == "Gänse" and left(path.parent) == ["a.txt"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~_umask()


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("there", [True, False])
def test_links_are_replaced_and_not_followed(tmp_path, there):
    target, link = tmp_path / "elsewhere.txt", tmp_path / "out/a.txt"
    link.parent.mkdir()
    link.symlink_to(target)
    if there:
        target.write_text("mine")
    write_atomically(link, "new")
    assert not link.is_symlink() and link.read_text() == "new"
    assert target.exists() == there and (not there or target.read_text() == "mine")


def test_a_folder_within_is_no_link_and_the_output_itself_may_be_one(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "elsewhere")
    assert make_folder(tmp_path / "out") == tmp_path / "out"
    with pytest.raises(WriteError, match="out: is a link, and nothing is written through links"):
        inner_folder(tmp_path / "out")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    with pytest.raises(WriteError, match="nowhere: is a link that leads nowhere"):
        make_folder(tmp_path / "nowhere")


def test_folders_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    for place, what in (
        ("file", "file: is a file and no folder; name another"),
        ("file/in", "file/in: the folder cannot be made: Not a directory"),
        ("a" * 300, "the folder cannot be made: File name too long"),
        ("a\0b", "the folder cannot be made: embedded null byte"),
    ):
        with pytest.raises(WriteError, match=what):
            make_folder(tmp_path / place)
    with pytest.raises(WriteError, match=r"/a{300}: cannot be written: File name too long"):
        write_atomically(tmp_path / ("a" * 300), "")
    assert left(tmp_path) == ["file"]


@pytest.fixture
def special(tmp_path):
    """Paths of a pipe and a socket."""
    os.mkfifo(tmp_path / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as opened:
        here = os.open(".", os.O_RDONLY)
        os.chdir(tmp_path)  # the paths of sockets are short
        try:
            opened.bind("socket.jpg")
        finally:
            os.chdir(here)
            os.close(here)
        yield {"a pipe": tmp_path / "pipe.jpg", "a socket": tmp_path / "socket.jpg"}


def test_what_is_no_file_is_neither_read_nor_replaced(special):
    for what, path in (special | {"a device": "/dev/zero"}).items():
        assert kind_of_special(path) == what
        with pytest.raises(FileError, match=f"{path}: is {what} and no file"):
            require_file(path)
    with pytest.raises(WriteError, match=r"pipe\.jpg: is a pipe, which is not written to"):
        write_atomically(special["a pipe"], "")
    assert special["a pipe"].is_fifo()


def test_files_folders_and_nothing_are_not_special(tmp_path):
    (tmp_path / "link").symlink_to("/dev/zero")
    assert kind_of_special(tmp_path / "link") == "a device", "links are followed when they are read"
    for path in (tmp_path, tmp_path / "none", tmp_path / "a\0b"):
        assert kind_of_special(path) == "" and require_file(path) == path
    write_atomically(tmp_path / "link", "")
    assert (tmp_path / "link").is_file(), "and replaced where something is written"


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.ENOMEM, "Cannot allocate memory")])
def test_files_that_no_memory_holds_are_named_with_their_size(tmp_path, monkeypatch, error):
    def fail(*_, **__):
        raise error

    path = tmp_path / "photo.gif"
    Image.new("L", (8, 8)).save(path)
    size = path.stat().st_size
    for name in ("read_bytes", "read_text"):
        monkeypatch.setattr(f"pathlib.Path.{name}", fail)
    monkeypatch.setattr("detseg.json_text._whole_file", fail)
    for read in (content_of, read_content, read_image, inspect_image, read_bytes, read_buffer, read_text):
        with pytest.raises(FileError, match=rf"photo\.gif: is a file of {size} bytes, for which there is not enough"):
            read(path)


def test_only_as_much_of_an_image_file_is_searched_as_an_image_has(tmp_path, monkeypatch):
    Image.new("L", (8, 8)).save(tmp_path / "a.jpg")
    monkeypatch.setattr("detseg.data.images.MAX_BYTES", 10)
    monkeypatch.setattr("detseg.data.images._has_end_mark", lambda data: isinstance(data, bytes) or pytest.fail())
    assert inspect_image(tmp_path / "a.jpg").size == (8, 8)


def test_a_full_disk_names_the_file(tmp_path):
    for error in (OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EROFS, "Read-only file system")):
        with (
            pytest.raises(WriteError, match=rf"a\.txt: cannot be written: {error.strerror}"),
            replacing(tmp_path / "a.txt"),
        ):
            raise error
    with pytest.raises(FileNotFoundError, match=r"b\.jpg"), replacing(tmp_path / "a.txt"):
        raise FileNotFoundError(errno.ENOENT, "No such file", "b.jpg")
    assert left(tmp_path) == []


def test_what_libraries_say_of_a_full_disk(tmp_path, monkeypatch):
    with pytest.raises(RuntimeError, match="odd"), replacing(tmp_path / "a.h5"):
        raise RuntimeError("odd")
    monkeypatch.setattr("detseg.files.shutil.disk_usage", lambda _: _Usage)
    with pytest.raises(WriteError, match=r"a\.h5: cannot be written: No space left"), replacing(tmp_path / "a.h5"):
        raise RuntimeError("file write failed")


class _Usage:
    free = 1000


def test_several_files_of_one_name(tmp_path):
    with replacing_all(tmp_path / "m.xml") as path:
        path.write_text("layers")
        path.with_suffix(".bin").write_text("weights")
        assert left(tmp_path) != ["m.bin", "m.xml"]
    assert left(tmp_path) == ["m.bin", "m.xml"]
    with pytest.raises(KeyError), replacing_all(tmp_path / "m.xml") as path:
        path.write_text("half")
        raise KeyError
    assert left(tmp_path) == ["m.bin", "m.xml"] and (tmp_path / "m.xml").read_text() == "layers"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("rose", "rose"),
        ("Gänseblümchen 雛菊", "Gänseblümchen 雛菊"),
        ("../../x", ".._.._x"),
        ("/etc/passwd", "_etc_passwd"),
        ("a\\b:c", "a_b_c"),
        ("\x1b[31mred\x07\n", "_[31mred__"),
        ("a\u202egpj.exe", "a_gpj.exe"),
        ("caf\udce9", "caf_xe9"),
        ("\ud800", "_"),
        ("a\0b", "a_b"),
        ("CON", "_CON"),
        ("nul.txt", "_nul.txt"),
        ("console", "console"),
        ("", ""),
    ],
)
def test_safe_names(text, name):
    assert safe_name(text) == name == safe_name(name)


@pytest.mark.parametrize("letter", ["a", "ä", "雛", "🌼"])
def test_safe_names_are_short_enough_for_every_file_system(tmp_path, letter):
    name = safe_name(letter * 1000)
    assert LONGEST - 4 < len(name.encode()) <= LONGEST and set(name) == {letter}
    write_atomically(tmp_path / f"{name}-counts.csv", "")


def test_libraries_get_text(tmp_path):
    (tmp_path / "Gänse.txt").write_text("a")
    with for_libraries(tmp_path / "Gänse.txt") as name:
        assert name == str(tmp_path / "Gänse.txt")
    odd = tmp_path / os.fsdecode(b"caf\xe9.txt")
    try:
        odd.write_text("b")
    except OSError:
        pytest.skip("this file system takes no such names")
    with for_libraries(odd) as name:
        assert name.encode() and name.endswith(".txt")
        with open(name, "r+", encoding="utf-8") as file:  # noqa: PTH123 - as a library does
            assert file.read() == "b"
            file.write("c")
    assert odd.read_text() == "bc" and not os.path.lexists(name)


def test_a_folder_that_was_not_there_is_removed(tmp_path):
    with pytest.raises(WriteError), new_folder(tmp_path / "new"):
        write_atomically(tmp_path / "new/a", "")
        raise WriteError
    assert left(tmp_path) == []
