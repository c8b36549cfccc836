"""Remote shards on the local disk: whole ones, those used last, never more bytes than a limit.

All processes of a machine share the folder `$DETSEG_CACHE/shards` (by default `~/.cache/detseg/shards`).
`DETSEG_SHARD_CACHE_GB` sets the limit; by default it is `MOST` and at most half of the disk's free space.
"""

import hashlib
import os
import shutil
from functools import cache
from pathlib import Path

from filelock import FileLock, Timeout

from detseg.data.tar_shards import file_system
from detseg.reading import FileError

MOST = 50 * 10**9  # bytes
TOGETHER = 16  # shards that training reads from at a time
PIECE = 2**22  # bytes that are copied at a time
PART, LOCK = ".part", ".lock"


def cache_folder() -> Path:
    """Where detseg keeps what can be made again."""
    given = os.environ.get("DETSEG_CACHE")
    return Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "detseg"


@cache
def shard_cache() -> "ShardCache":
    """The cache of this machine."""
    folder = cache_folder() / "shards"
    folder.mkdir(parents=True, exist_ok=True)
    given = os.environ.get("DETSEG_SHARD_CACHE_GB")
    try:
        limit = int(float(given) * 1e9) if given else None
    except (ValueError, OverflowError) as error:
        raise ValueError(f"DETSEG_SHARD_CACHE_GB must be a number of gigabytes, not {given!r}") from error
    kept = sum(size for _, size, _ in _files(folder))
    return ShardCache(folder, min(MOST, (shutil.disk_usage(folder).free + kept) // 2) if limit is None else limit)


class ShardCache:
    """Bytes of remote shards by way of a folder with whole shards.

    A shard of more than a `TOGETHER`th of the limit, which would be fetched over and over, is read at the wanted place
    only, and so is one while others that are being fetched leave no room.

    Args:
        folder: where shards are kept; processes may share it if their limits are the same.
        limit: bytes of all files in it together, also of those that are being fetched.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._sizes: dict[str, int] = {}

    def read(self, shard: str, offset: int, size: int) -> bytes:
        """`size` bytes of a shard from `offset` on, fewer at its end; whatever fsspec raises."""
        place = self._place(shard)
        for _ in range(2):  # it may be removed in between
            try:
                return _read(place, offset, size)
            except FileNotFoundError:
                if not 0 < self._size(shard) <= self.limit // TOGETHER:
                    break
                with FileLock(f"{place}{LOCK}"):
                    if not place.exists() and not self._fetch(shard, place):
                        break
        files, inside = file_system(shard)
        content: bytes = files.cat_file(inside, start=offset, end=offset + size)
        return content

    def forget(self, shard: str) -> bool:
        """Remove a shard; whether it was there."""
        self._sizes.pop(shard, None)
        try:
            self._place(shard).unlink()
        except FileNotFoundError:
            return False
        return True

    def _place(self, shard: str) -> Path:
        return self.folder / f"{hashlib.blake2b(shard.encode(), digest_size=16).hexdigest()}.tar"

    def _size(self, shard: str) -> int:
        if shard not in self._sizes:
            files, inside = file_system(shard)
            self._sizes[shard] = int(files.size(inside) or 0)
        return self._sizes[shard]

    def _fetch(self, shard: str, place: Path) -> bool:
        """Copy a shard to its place; whether there was room. The caller has the shard's lock."""
        files, inside = file_system(shard)
        size = self._size(shard)
        part = place.with_suffix(PART)
        part.unlink(missing_ok=True)  # of a process that was stopped: this one has the lock
        with FileLock(self.folder / f"room{LOCK}"):
            if not self._make_room(size):
                return False
            with part.open("wb") as file:
                file.truncate(size)  # others see how much it will take
        try:
            with files.open(inside, "rb") as source, part.open("r+b") as target:
                left = size
                while left and (piece := source.read(min(PIECE, left))):
                    target.write(piece)
                    left -= len(piece)
            if left:
                raise FileError(f"{shard}: ended {left} bytes early while it was fetched; try again")
            part.replace(place)
        finally:
            part.unlink(missing_ok=True)
        return True

    def _make_room(self, size: int) -> bool:
        """Remove shards, those used longest ago first, until so many bytes fit; whether they do."""
        files = _files(self.folder)
        used = sum(kept for _, kept, _ in files)
        for _, kept, path in files:
            if used + size <= self.limit:
                break
            if path.suffix == PART and _in_work(path):
                continue
            path.unlink(missing_ok=True)
            used -= kept
        return used + size <= self.limit


def _files(folder: Path) -> list[tuple[int, int, Path]]:
    """When each shard in a folder was used last, its bytes, and the file; in this order."""
    found = []
    for path in folder.iterdir():
        if path.suffix in (".tar", PART):
            try:
                state = path.stat()
            except FileNotFoundError:  # another process has removed it
                continue
            found.append((state.st_mtime_ns, state.st_size, path))
    return sorted(found)


def _in_work(part: Path) -> bool:
    """Whether a process is fetching this shard; else it was stopped while it did."""
    try:
        with FileLock(f"{part.with_suffix('.tar')}{LOCK}", timeout=0):
            return False
    except Timeout:
        return True


def _read(place: Path, offset: int, size: int) -> bytes:
    with place.open("rb") as file:
        os.utime(place)
        file.seek(offset)
        return file.read(size)
