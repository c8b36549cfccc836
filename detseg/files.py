"""Files and folders that are written whole or not at all."""

import glob
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to, which takes its place when the block ends well.

    After an error or a crash the old file is still there. Folders on the way are made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.")
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)  # mkstemp makes files that only the owner may read
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def remove_unfinished(folder: Path, names: Iterable[str]) -> None:
    """Remove what `replacing` has left of files of these names in processes that were killed meanwhile."""
    for name in names:
        for path in folder.glob(f".{glob.escape(name[:100])}.????????"):
            path.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a file so that it is either complete or as it was; text is written as UTF-8."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


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
