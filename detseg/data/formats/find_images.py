"""Which file on disk an image of an annotation file is, whose name may hold folders of another machine."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from detseg.data.formats.image_files import list_images
from detseg.data.formats.same_name import LOOSE, OF_UPLOADS, SPELLINGS, NameIndex, folded


class FolderCache:
    """Answers "does this file exist?" for many files by listing each folder once."""

    def __init__(self) -> None:
        self._names: dict[str, set[str]] = {}
        self._indices: dict[str, NameIndex] = {}

    def names(self, folder: str) -> set[str]:
        """The names in a folder; empty if there is no such folder."""
        if folder not in self._names:
            self._names[folder] = set()
            with suppress(OSError, ValueError):  # no text that can be a path
                self._names[folder].update(os.listdir(folder or "."))  # noqa: PTH208 - one call for 100 k names
        return self._names[folder]

    def index(self, folder: str) -> NameIndex:
        """The names in a folder that are not hidden, to be found by other spellings."""
        if folder not in self._indices:
            self._indices[folder] = NameIndex(name for name in self.names(folder) if not name.startswith("."))
        return self._indices[folder]

    def __contains__(self, path: str) -> bool:
        folder, name = os.path.split(path)
        return name in self.names(folder)


class Found(NamedTuple):
    """A file that may be the image of a name."""

    path: str
    base: int  # the position of the folder it was looked for in; -1 for those below
    kept: int  # how many of the name's last folders the file lies in
    ignored: int  # how many of its folders it does not lie in
    same_spelling: bool = True
    loose: bool = False  # found without regard to the extension, or to what an upload put before the name

    @property
    def exact(self) -> bool:
        """Whether the file has just this name."""
        return self.same_spelling and not self.ignored


class _Place(NamedTuple):
    folder: str
    base: int
    kept: int
    ignored: int


class Finder:
    """Finds images by name in the first of several folders that has them, each folder listed once."""

    def __init__(self, bases: Sequence[str]) -> None:
        self.cache = FolderCache()
        self._bases = bases
        self._places: dict[str, list[_Place]] = {}

    def find(self, name: str) -> Found | None:
        """The file that a name means by itself, without regard to other names.

        As it stands, then without its first folders, one after another; then in another spelling; then with another
        extension or without the digits of an upload.
        """
        above, _, bare = name.rpartition("/")
        if bare in ("", ".", ".."):
            return None
        places = self._places.get(above)
        if places is None:
            places = self._places[above] = list(self._places_of(above))
        for place in places:
            if bare in self.cache.names(place.folder):
                alike = {p.folder for p in places if p.kept == place.kept and bare in self.cache.names(p.folder)}
                return Found(join(place.folder, bare), *place[1:]) if not place.ignored or len(alike) == 1 else None
        for loose, ways in ((False, SPELLINGS), (True, OF_UPLOADS if "data/upload" in above else LOOSE)):
            for place in places:
                there = self.cache.index(place.folder).find(bare, ways)
                if there:
                    one = len(there) == 1  # several may be meant: none is taken
                    return Found(join(place.folder, there[0]), *place[1:], False, loose) if one else None
        return None

    def _places_of(self, above: str) -> Iterator[_Place]:
        """Where an image may lie whose name has the folders `above`: the folders that exist, likeliest first."""
        parts = [part for part in above.split("/") if part not in ("", ".")]
        for start in range(len(parts) + 1):
            end = "/".join(parts[start:]) if start else above
            for position, base in enumerate(self._bases):
                folder = join(base, end) if end else base
                if not self.cache.names(folder):
                    folder = self._in_other_spelling(base, parts[start:]) or ""
                if folder:
                    kept = common_end(folder, parts) if start else len(parts)
                    yield _Place(folder, position, kept, len(parts) - kept)

    def _in_other_spelling(self, folder: str, parts: Sequence[str]) -> str | None:
        for part in parts:
            if part not in self.cache.names(folder):
                there = self.cache.index(folder).find(part, SPELLINGS)
                if len(there) != 1:
                    return None
                part = there[0]
            folder = join(folder, part)
        return folder if parts and self.cache.names(folder) else None


def common_end(folder: str, parts: Sequence[str]) -> int:
    """How many of the last of these folders are the last ones of a path too."""
    count = 0
    for mine, theirs in zip(reversed(Path(folder).absolute().parts), reversed(parts), strict=False):
        if mine != theirs and folded(mine) != folded(theirs):
            break
        count += 1
    return count


def join(folder: str, name: str) -> str:
    """The path of a name in a folder, without detours."""
    if "/" not in name and name not in ("", ".", ".."):  # the usual case, a hundred thousand times
        return name if folder in ("", ".") else f"{folder}{os.sep}{name}"
    return os.path.normpath(os.path.join(folder, name))  # noqa: PTH118 - pathlib is five times slower


def find_below(names: Sequence[str], folder: Path) -> dict[str, Found]:
    """The names of which exactly one image at any depth below a folder may be meant."""
    by_bare = defaultdict(list)
    for path in list_images(folder):
        by_bare[os.path.basename(path)].append(path)  # noqa: PTH119 - speed
    if not by_bare:
        return {}
    index = NameIndex(by_bare)
    found = {}
    for name in names:
        *above, bare = name.split("/")
        same = bare in by_bare
        there = [bare] if same else index.find(bare)
        paths = [path for meant in there for path in by_bare[meant]]
        kept = [common_end(os.path.dirname(path), above) for path in paths]  # noqa: PTH120 - speed
        if kept and kept.count(max(kept)) == 1:
            best = kept.index(max(kept))
            found[name] = Found(paths[best], -1, kept[best], len(above) - kept[best], same, not same)
    return found


def settle(found: dict[str, Found | None]) -> dict[str, Found]:
    """What may be taken: files that one name means, and bare names only where no name's folders are there.

    Where the folders of some names are there, an image of the same bare name in another folder is another image.
    """
    hits = {name: hit for name, hit in found.items() if hit is not None}
    counts = Counter(hit.path for hit in hits.values())
    exact = {hit.path for hit in hits.values() if hit.exact}
    rooted = any(hit.kept for hit in hits.values())

    def sure(hit: Found) -> bool:
        alone = counts[hit.path] == 1 and hit.path not in exact
        return hit.exact or (alone and (hit.kept > 0 or not hit.ignored or not rooted))

    return {name: hit for name, hit in hits.items() if sure(hit)}


def nearby_image(path: str, cache: FolderCache) -> str:
    """What may be meant by the path of an image that does not exist: the path of one of that name, or nothing."""
    folder, bare = os.path.split(path)
    for _ in range(4):
        there = [bare] if bare in cache.names(folder) else cache.index(folder).find(bare)
        if there:
            return join(folder, min(there))
        folder, last = os.path.split(folder)
        if not last:
            break
    return ""
