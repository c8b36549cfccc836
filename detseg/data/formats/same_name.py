"""Names of files that mean the same though they are spelled differently.

Systems differ in case and in the Unicode form of letters (macOS takes letters and their accents apart), web tools write
%20 for a space, people convert images, and Label Studio puts eight hexadecimal digits before the name of an upload:
https://github.com/HumanSignal/label-studio/blob/develop/label_studio/data_import/models.py
"""

import re
import unicodedata
from collections.abc import Callable, Iterable
from functools import lru_cache
from urllib.parse import unquote, urlsplit

from detseg.data.formats.image_files import IMAGE_EXTENSIONS, OTHER_EXTENSIONS

EXTENSIONS = (*IMAGE_EXTENSIONS, *OTHER_EXTENSIONS)
UPLOADED = re.compile(r"(?:\d+-)?[0-9a-f]{8}-(?=.)")


def is_address(name: str) -> bool:
    """Whether a name's folders are those of a web service: it has a scheme, or Label Studio or CVAT wrote it."""
    return "://" in name or "?d=" in name or name.startswith(("/data/upload/", "data/obj_"))


def is_absolute(name: str) -> bool:
    """Whether a name is a full path, of this system or another."""
    return name.startswith("/") or name[1:2] == ":"


def local_name(name: str) -> str:
    """The part of a name, which may be a web address, that is a path of folders and a file, with plain strokes."""
    name = name.replace("\\", "/")
    if "?d=" in name:  # Label Studio's local files
        return unquote(name.partition("?d=")[2].partition("&")[0])
    if "://" in name:
        try:
            return unquote(urlsplit(name).path).lstrip("/")
        except ValueError:
            return name.partition("://")[2]
    return name


def folded(name: str) -> str:
    """Without differences of case, Unicode form and percent-encoding."""
    if name.isascii() and "%" not in name:
        return name.lower()
    return unicodedata.normalize("NFC", unquote(name)).casefold()


@lru_cache(64)
def stem(name: str) -> str:
    """Folded, and without the extensions of images; kept, since a name is looked for in one folder after another."""
    name = folded(name)
    while name.endswith(EXTENSIONS) and not name.startswith("."):
        name = name[: name.rindex(".")]
    return name


@lru_cache(64)
def _cleaned(name: str) -> str:
    """The stem with what Label Studio (Django) makes of spaces and signs."""
    return re.sub(r"[^-\w.]", "", stem(name).strip().replace(" ", "_"))


@lru_cache(64)
def _uploaded(name: str) -> str:
    """The stem without the digits of an upload; nothing where there are none."""
    name, count = UPLOADED.subn("", _cleaned(name), count=1) if UPLOADED.match(stem(name)) else ("", 0)
    return name if count else ""


Key = Callable[[str], str]
SPELLINGS: tuple[tuple[Key, Key], ...] = ((folded, folded),)
LOOSE: tuple[tuple[Key, Key], ...] = ((stem, stem), (_uploaded, _cleaned), (_cleaned, _uploaded))


def _behind_prefix(name: str) -> str:
    """The stem behind the first dash: what an uploaded file was called, whatever was put before it."""
    return stem(name).partition("-")[2]


OF_UPLOADS: tuple[tuple[Key, Key], ...] = (
    *LOOSE,
    (_behind_prefix, stem),
)  # in Label Studio's folder of uploads every name has a prefix


class NameIndex:
    """The names of a folder, to be found by names that mean the same."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = list(names)
        self._tables: dict[Key, dict[str, list[str]]] = {}

    def find(self, name: str, ways: Iterable[tuple[Key, Key]] = (*SPELLINGS, *LOOSE)) -> list[str]:
        """The names that mean the same in the closest way in which any does; several where it is not clear."""
        for of_name, of_file in ways:
            key = of_name(name)
            found = self._table(of_file).get(key) if key else None
            if found:
                return found
        return []

    def _table(self, key: Key) -> dict[str, list[str]]:
        if key not in self._tables:
            table: dict[str, list[str]] = {}
            for name in self._names:
                table.setdefault(key(name), []).append(name)
            self._tables[key] = table
        return self._tables[key]
