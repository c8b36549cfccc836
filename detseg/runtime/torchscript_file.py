"""What a TorchScript file says of its tensors, compared with the bytes that it holds of them.

torch.jit.load believes the file: a tensor whose bytes are not there is read all the same, from wherever that is in
memory.
"""

import pickletools
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from detseg.reading import FileError, cause

REMEDY = "export it again"
_BYTES = {  # of a number, by the name of its storage in torch
    f"{name}Storage": size
    for size, names in {
        1: ("Bool", "Byte", "Char"),
        2: ("Half", "BFloat16", "Short"),
        4: ("Float", "Int"),
        8: ("Double", "Long", "ComplexFloat"),
        16: ("ComplexDouble",),
    }.items()
    for name in names
}


class Storage(NamedTuple):
    """The bytes that tensors share: the name of its entry, how many numbers it holds, and their class in torch."""

    key: str
    numbers: int
    kind: str


class View(NamedTuple):
    """A tensor: where in its storage it begins, and its shape and strides."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def end(self) -> int:
        """How many numbers its storage must hold."""
        if not len(self.shape) == len(self.strides) or min((self.offset, *self.shape, *self.strides)) < 0:
            raise ValueError(f"it is said to have the shape {self.shape}, the strides {self.strides}")
        if 0 in self.shape:
            return 0
        return self.offset + 1 + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))


def check_torchscript(path: Path) -> None:
    """Raise FileError where a file has an entry twice, or less bytes of a tensor than it says."""
    with zipfile.ZipFile(path) as archive:
        entries: dict[str, zipfile.ZipInfo] = {}
        for entry in archive.infolist():
            name = entry.filename.lower()  # torch finds entries so
            if name in entries:
                raise FileError(f"{path}: {entry.filename} is in it twice ({REMEDY})")
            entries[name] = entry
        root = next(iter(entries), "").partition("/")[0]
        for part in ("data", "constants"):
            held = entries.get(f"{root}/{part}.pkl")
            if held is not None:
                sizes = {name: entry.file_size for name, entry in entries.items()}
                _check_tensors(_content(archive, held, path), f"{path}: {held.filename}", f"{root}/{part}/", sizes)


def _content(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path) -> bytes:
    if entry.compress_type != zipfile.ZIP_STORED:  # a small one could fill memory
        raise FileError(f"{path}: {entry.filename} is compressed ({REMEDY})")
    return archive.read(entry)


def _check_tensors(pickled: bytes, place: str, folder: str, sizes: dict[str, int]) -> None:
    try:
        for view in _views(pickled):
            storage, end = view.storage, view.end()
            if end > storage.numbers:
                raise ValueError(
                    f"a tensor of {end} numbers is said to be in {folder}{storage.key}, of {storage.numbers}"
                )
            there, wanted = sizes.get(folder + storage.key.lower(), -1), storage.numbers * _BYTES[storage.kind]
            if there < wanted:
                told = f"has {there} bytes" if there >= 0 else "is missing"
                raise ValueError(f"{folder}{storage.key} {told}, and its tensor has {wanted}")
    except Exception as error:  # whatever is no list of tensors
        raise FileError(f"{place}: {cause(error)} ({REMEDY})") from error


# ------------------------------------------------------------------ reading without running


class _Mark:
    """Where a list of values on the stack begins."""


def _views(pickled: bytes) -> Iterator[View]:
    """The tensors of a pickle, from its orders: nothing that it names is looked up or called."""
    stack: list[Any] = []
    memo: dict[Any, Any] = {}
    for order, argument, _ in pickletools.genops(pickled):
        name = order.name
        if name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name in _TAKE:
            count, make = _TAKE[name]
            value = make(*_taken(stack, count))
            if isinstance(value, View):
                yield value
            stack.append(value)
        elif name in _PUT:
            _taken(stack, _PUT[name])
        elif name in _GIVE:
            stack.append(_GIVE[name]())
        elif name in _ARGUMENTS:
            stack.append(argument)
        elif name not in ("PROTO", "STOP"):
            raise ValueError(f"the order {name} is none that torch writes")


def _taken(stack: list[Any], count: int | None) -> list[Any]:
    """The last values of the stack, which loses them; those since the mark for a count of None."""
    if count is None:
        start = next((i for i in range(len(stack) - 1, -1, -1) if isinstance(stack[i], _Mark)), -1)
    else:
        start = len(stack) - count
    if start < 0:
        raise ValueError("an order takes more than there is")
    taken = stack[start + (count is None) :]
    del stack[start:]
    return taken


def _storage(entry: tuple[Any, ...]) -> Storage:
    kind, (_, name, key, _, count) = entry[0], entry
    if kind != "storage":
        raise ValueError(f"{kind!r:.40} stands where a storage should")
    return Storage(key, count, name.rpartition(" ")[2])


def _called(function: Any, arguments: tuple[Any, ...]) -> Any:
    return View(*arguments[:4]) if arguments and isinstance(arguments[0], Storage) else None


# What orders put on the stack: their argument, or this.
_ARGUMENTS = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "GLOBAL")
_GIVE: dict[str, Callable[[], Any]] = {
    "MARK": _Mark,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
}
# How many values an order takes from the stack, None for those since the mark, and what it puts there.
_TAKE: dict[str, tuple[int | None, Callable[..., Any]]] = {
    "TUPLE": (None, lambda *values: values),
    "TUPLE1": (1, lambda *values: values),
    "TUPLE2": (2, lambda *values: values),
    "TUPLE3": (3, lambda *values: values),
    "BINPERSID": (1, _storage),
    "REDUCE": (2, _called),
    "NEWOBJ": (2, lambda kind, arguments: None),
}
# How many values an order puts into the one before them on the stack.
_PUT = {"SETITEM": 2, "SETITEMS": None, "APPEND": 1, "APPENDS": None, "BUILD": 1}
