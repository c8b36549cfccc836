"""Files and folders that are written whole or not at all, never through a link, under names that every system takes."""

import errno
import glob
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from detseg.console import text_of_bytes
from detseg.reading import cause, kind_of_special

LONGEST = 200  # bytes of a name: file systems take 255, and numbers and endings are added
FULL = 1 << 16  # bytes: a disk with fewer left is what made a library fail
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)  # copying names the file that is read, too
# What is not in file names on one system or another, or turns text round; `\xe9`, of a byte that is no text, goes too.
_UNFIT = re.compile('[<>:"/\\\\|?*\\x00-\\x1f\\x7f-\\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]')
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)  # by Windows


class WriteError(OSError):
    """A file or folder that cannot be written; the message names it and says why, `errno` is the system's number."""

    @classmethod
    def of(cls, path: Path, error: OSError) -> "WriteError":
        """What the system said of the file at `path`."""
        told = cls(f"{path}: cannot be written: {cause(error)}")
        told.errno = error.errno
        return told


@contextmanager
def replacing(path: Path, ending: str = "") -> Iterator[Path]:
    """A temporary path beside `path` to write to, which takes its place when the block ends well.

    After an error or a crash the old file is still there. Folders on the way are made. A link is replaced by the file.

    Args:
        path: of the file.
        ending: of the temporary path, for libraries that look at it.

    Raises:
        WriteError: it cannot be written, or is no file but a pipe, a device or a socket.
    """
    make_folder(path.parent)
    if special := kind_of_special(path, follow=False):
        raise WriteError(f"{path}: is {special}, which is not written to; name a file")
    with _named(path):
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=_prefix(path.name), suffix=ending)
    os.close(descriptor)
    temporary = Path(name)
    try:
        with _named(path, temporary):
            yield temporary
            mask = os.umask(0)
            os.umask(mask)
            temporary.chmod(0o666 & ~mask)  # mkstemp makes files that only the owner may read
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def _named(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Turn what goes wrong with writing `path`, and not what else does in the block, into `WriteError`."""
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        other = temporary is not None and not str(error.filename or temporary).startswith(str(temporary))
        if other and error.errno not in NO_ROOM:  # a file that is read in the block
            raise
        raise WriteError.of(path, error) from error
    except Exception as error:
        try:
            require_room(path)
        except WriteError as full:  # of which libraries tell each in their own way
            raise full from error
        raise


@contextmanager
def replacing_all(path: Path) -> Iterator[Path]:
    """As `replacing`, for libraries that write several files of one name and other endings beside each other."""
    make_folder(path.parent)
    with _named(path):
        folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=".detseg-"))
    try:
        with _named(path, folder):
            yield folder / f"model{path.suffix}"
        for file in folder.iterdir():
            with replacing(path if file.suffix == path.suffix else path.with_suffix(file.suffix)) as temporary:
                file.replace(temporary)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def require_room(path: Path) -> None:
    """Raise `WriteError` where the disk of a file that is being written is full, or its folder is gone."""
    try:
        full = shutil.disk_usage(path.parent).free < FULL
    except OSError as error:
        raise WriteError.of(path, error) from error
    if full:
        raise WriteError.of(path, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))


def _prefix(name: str) -> str:
    """What the names of the temporary files of a file begin with."""
    return f".{safe_name(name)[:50]}."


def remove_unfinished(folder: Path, names: Iterable[str]) -> None:
    """Remove what `replacing` has left of files of these names in processes that were killed meanwhile."""
    for name in names:
        for path in folder.glob(f"{glob.escape(_prefix(name))}????????*"):
            path.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a file so that it is either complete or as it was; text is written as UTF-8."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


def make_folder(folder: Path) -> Path:
    """A folder and those above it, made where they are missing; `WriteError` where that cannot be, a file say."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        what = "a link that leads nowhere" if folder.is_symlink() else "a file and no folder"
        raise WriteError(f"{folder}: is {what}; name another") from error
    except (OSError, ValueError) as error:  # ValueError: a zero byte
        raise WriteError(f"{folder}: the folder cannot be made: {cause(error)}") from error
    return folder


def inner_folder(folder: Path) -> Path:
    """As `make_folder`, of one within an output folder: `WriteError` where it is a link, which may lead out of it."""
    refuse_link(folder)
    return make_folder(folder)


def refuse_link(folder: Path) -> None:
    """Raise `WriteError` where a folder within an output folder is a link."""
    if folder.is_symlink():
        raise WriteError(f"{folder}: is a link, and nothing is written through links; remove it")


@contextmanager
def new_folder(folder: Path) -> Iterator[None]:
    """What a block writes into a folder that was not there, or empty, is removed if the block ends early.

    Half a data set can be read: as one whose other images show nothing.
    """
    there = folder.exists()
    try:
        yield
    except BaseException:
        for entry in list(folder.iterdir()) if there else [folder] if folder.exists() else []:
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)
        raise


def safe_name(text: str) -> str:
    """A name for a file or folder made of any text, the name of an image or class say: it itself where it can be.

    Characters that some system does not take in names, and bytes that are no UTF-8, become ``_``; what is longer than
    `LONGEST` bytes is cut. So it names something in its folder, wherever that is copied to. It may be empty.
    """
    name = _UNFIT.sub("_", text_of_bytes(text))
    content = name.encode("utf-8")
    if len(content) > LONGEST:
        name = content[:LONGEST].decode("utf-8", "ignore")
    if _RESERVED.match(name):
        name = f"_{name}"
    return name


def require_text(path: Path) -> None:
    """Raise ValueError for a path that is no UTF-8, where libraries read more than the one file and want text."""
    try:
        os.fsencode(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is no UTF-8, which engines want; rename it, or give a link to its folder") from error


@contextmanager
def for_libraries(path: str | Path) -> Iterator[str]:
    """The path of something that is there, for libraries that want text: of a name that is no UTF-8 that of a link."""
    name = os.fsencode(path)
    try:
        text = name.decode("utf-8")
    except UnicodeDecodeError:
        text = ""
    if text:
        yield text
        return
    with tempfile.TemporaryDirectory(prefix="detseg-") as folder:
        link = Path(folder, "link" + safe_name(Path(path).suffix))
        link.symlink_to(Path(path).absolute())
        yield str(link)
