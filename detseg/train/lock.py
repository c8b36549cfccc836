"""A run folder belongs to one process at a time, by a lock that the system frees when that process dies."""

import contextlib
import os
import socket
import time
from pathlib import Path

from filelock import FileLock, Timeout

from detseg.reading import cause

LOCK = "run.lock"


class RunLock:
    """The lock of a run folder, held until `release`; a file that a crash has left locks nothing.

    Other machines respect it where the folder's file system passes locks on, as NFS does unless mounted with "nolock".

    Args:
        folder: must exist.

    Raises:
        ValueError: another process holds it, or nothing can be written in the folder.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK
        self._lock = FileLock(self._path, timeout=0, thread_local=False)
        try:
            self._lock.acquire()
        except Timeout as error:
            raise ValueError(f"{folder}: {self._holder()}; stop it, or wait until it ends") from error
        except OSError as error:
            raise ValueError(f"{folder}: no run can be written here: {cause(error)}") from error
        with contextlib.suppress(OSError):  # only others want to know
            since = time.strftime("%Y-%m-%d %H:%M")
            self._path.write_text(f"process {os.getpid()} on {socket.gethostname()} is training here since {since}")
        self._file = self._present()

    @property
    def held(self) -> bool:
        """Whether the folder is still there, and still this process's: it may be removed, and made anew by others."""
        return self._file is not None and self._present() == self._file

    def release(self) -> None:
        """Leave the folder to others, without a trace of the lock."""
        if self.held:  # removed before it is released: whoever has opened it meanwhile finds that it is gone
            self._path.unlink()
        self._lock.release()

    def _present(self) -> tuple[int, int] | None:
        """What tells the file of this path from any other."""
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _holder(self) -> str:
        try:
            return self._path.read_text(encoding="utf-8")[:200] or "another process is training here"
        except (OSError, UnicodeDecodeError):
            return "another process is training here"
