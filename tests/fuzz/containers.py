"""Damage inside of what wraps and checks its content: the checksums, lengths and directories stay right."""

import contextlib
import io
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.fuzz import trees
from tests.fuzz.hostile import TOUCH, pick

Mutate = Callable[[bytes, np.random.Generator], bytes]
PICKLES = (  # run a command where they are unpickled, in the oldest form and with the marks of a new one
    b"cos\nsystem\n(S'" + TOUCH.encode() + b"'\ntR.",
    b"\x80\x02cposix\nsystem\nX" + struct.pack("<I", len(TOUCH)) + TOUCH.encode() + b"\x85R.",
)


def inside_png(change: Mutate) -> Mutate:
    """`change` of one chunk, whose checksum follows; of pixels before they are compressed."""

    def changed(content: bytes, rng: np.random.Generator) -> bytes:
        chunks = _chunks(content)
        if not chunks or rng.random() < 0.4:
            return change(content, rng)
        i = int(rng.integers(len(chunks)))
        name, data = chunks[i]
        if name == b"IDAT" and rng.random() < 0.5:
            with contextlib.suppress(zlib.error):
                chunks[i] = (name, zlib.compress(change(zlib.decompress(data), rng)))
        elif rng.random() < 0.2:
            chunks.insert(int(rng.integers(len(chunks))), chunks.pop(i))
        elif rng.random() < 0.2:
            extra = pick(
                rng, (b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf", b"tRNS", b"PLTE", b"acTL", b"fcTL", b"gAMA")
            )
            chunks.insert(1, (extra, rng.bytes(int(rng.integers(40)))))
        else:
            chunks[i] = (name, change(data, rng))
        parts = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks]
        return content[:8] + b"".join(parts)

    return changed


def _chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    """Name and data of the chunks of a PNG; none of a damaged one."""
    place, chunks = 8, []
    while content.startswith(b"\x89PNG") and place + 12 <= len(content):
        length = int.from_bytes(content[place : place + 4], "big")
        chunks.append((content[place + 4 : place + 8], content[place + 8 : place + 8 + length]))
        place += 12 + length
    return chunks


def _change_one(members: list[tuple[Any, bytes]], other: Callable[..., tuple[Any, bytes]], rng: Any) -> None:
    """One of the members of an archive removed, doubled, moved, or mostly made another, in one of several ways."""
    i, way = int(rng.integers(len(members))), int(rng.integers(9))
    if way == 0:
        del members[i]
    elif way == 1:
        members.append(members[i])
    elif way == 8:
        members.insert(0, members.pop(i))
    else:
        members[i] = other(*members[i], way, rng)


def inside_zip(change: Mutate) -> Mutate:
    """`change` of one member of a zip file, such as those of torch, or of its name."""

    def other(name: str, data: bytes, way: int, rng: np.random.Generator) -> tuple[str, bytes]:
        if way == 2:
            return pick(rng, ("../x", "/x", "data.pkl", "x" * 300, "a\nb", name.upper())), data
        return name, pick(rng, PICKLES) if way == 3 else change(data, rng)

    def changed(content: bytes, rng: np.random.Generator) -> bytes:
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as file:
                members = [(name, file.read(name)) for name in file.namelist()]
        except Exception:  # damaged by an earlier change
            members = []
        if not members or rng.random() < 0.3:
            return change(content, rng)
        _change_one(members, other, rng)
        out = io.BytesIO()
        with warnings.catch_warnings(), zipfile.ZipFile(out, "w") as file:
            warnings.simplefilter("ignore")  # names that are there twice
            for name, data in members:
                file.writestr(name, data)
        return out.getvalue()

    return changed


def inside_tar(change: Callable[[str, bytes, np.random.Generator], bytes], at_random: Mutate) -> Mutate:
    """A member of a tar file changed by `change`, given its name; or its header, its checksum right."""

    def other(info: Any, data: bytes, way: int, rng: np.random.Generator) -> tuple[Any, bytes]:
        if way == 2:
            info.name = pick(rng, ("../x.png", "/x.png", "x" * 300, "a\nb.json", "\udcff.png", ".", ""))
        elif way == 3:
            kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE)
            info.type, info.linkname = pick(rng, (*kinds, tarfile.GNUTYPE_SPARSE)), "/etc/passwd"
        else:
            data = change(info.name, data, rng)
        return info, data

    def changed(content: bytes, rng: np.random.Generator) -> bytes:
        try:
            with tarfile.open(fileobj=io.BytesIO(content)) as file:
                members = [(info, file.extractfile(info).read()) for info in file if info.isreg()]  # type: ignore[union-attr]
        except Exception:  # damaged by an earlier change
            members = []
        if not members or rng.random() < 0.2:
            return at_random(content, rng)
        _change_one(members, other, rng)
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as file:
            for info, data in members:
                info.size = len(data) if info.isreg() else 0
                file.addfile(info, io.BytesIO(data))
        return out.getvalue()

    return changed


def inside_safetensors(change: Mutate) -> Mutate:
    """The header of a safetensors file changed as JSON, its length right; else `change`."""

    def changed(content: bytes, rng: np.random.Generator) -> bytes:
        length = int.from_bytes(content[:8], "little")
        if length > len(content) or rng.random() < 0.3:
            return change(content, rng)
        header = trees.change_json(content[8 : 8 + length], rng)
        return len(header).to_bytes(8, "little") + header + content[8 + length :]

    return changed


# ------------------------------------------------------------------ HDF5


def change_hdf5(content: bytes, rng: np.random.Generator) -> bytes:
    """An attribute or data set of an HDF5 file changed, removed, renamed or of another type."""
    import h5py

    from tests.fuzz.mutators import mutants

    buffer = io.BytesIO(content)
    try:
        with h5py.File(buffer, "r+") as file:
            nodes: list[Any] = [file]
            file.visititems(lambda _, node: nodes.append(node))
            node = pick(rng, nodes)
            if node.attrs and rng.random() < 0.5:
                name = pick(rng, list(node.attrs))
                _change_entry(node.attrs, name, rng)
            elif node is not file:
                _change_entry(node.parent, node.name.rsplit("/", 1)[-1], rng)
    except Exception:  # damaged by an earlier change, or no such type in HDF5
        return mutants(content, "bytes", rng)
    return buffer.getvalue()


def _change_entry(parent: Any, name: str, rng: np.random.Generator) -> None:
    """An attribute or member of a group replaced by another, by nothing or by a link."""
    import h5py

    old = parent[name]
    value = np.asarray(old[()] if isinstance(old, h5py.Dataset) else old) if not isinstance(old, h5py.Group) else None
    choice = int(rng.integers(5))
    if choice == 4 and value is not None and value.dtype.kind in "iuf" and value.size:
        changed = np.array(value)
        changed.flat[int(rng.integers(changed.size))] = _number(rng, changed.dtype)
        new: Any = changed
    elif choice == 3 and value is not None and value.ndim:
        cut = value[: int(rng.integers(len(value) + 1))]
        new = pick(rng, (cut, value[None], value.ravel(), np.concatenate([value, value])))
    elif choice == 2 and isinstance(value, np.ndarray) and value.dtype.kind == "O":
        text = (
            bytes(value.item()) if value.size == 1 and isinstance(value.item(), bytes) else str(value.flat[0]).encode()
        )
        new = trees.change_json(text, rng).decode("utf-8", "replace").replace("\0", "")
    else:
        new = pick(rng, _values())
    del parent[name]
    if choice == 0:
        return
    if choice == 1 and not isinstance(parent, h5py.AttributeManager) and rng.random() < 0.5:
        parent[name] = pick(
            rng, (h5py.SoftLink(f"/{name}"), h5py.SoftLink("/no"), h5py.ExternalLink("/etc/passwd", "/"))
        )
        return
    parent[name] = new


def _number(rng: np.random.Generator, dtype: np.dtype[Any]) -> Any:
    if dtype.kind == "f":
        return pick(rng, (np.nan, np.inf, -np.inf, -1, 1e30, 0))
    limits = np.iinfo(dtype)
    return pick(rng, (limits.min, limits.max, 0, 1, limits.max // 2))


def _values() -> tuple[Any, ...]:
    import h5py

    return (
        *(
            0,
            -1,
            2**62,
            1.5,
            np.nan,
            np.inf,
            "",
            "x",
            "é" * 9,
            "{}",
            "[]",
            "null",
            "[" * 5000,
            '{"a": 1e400}',
            b"\xff\xfe",
        ),
        *(
            np.zeros(0),
            np.zeros((0, 4), np.int64),
            np.zeros((2, 3, 4)),
            np.array([b"a", b"bc"]),
            np.array(["a"], object),
        ),
        *(
            np.float16(1),
            True,
            np.zeros(3, [("a", int), ("b", float)]),
            h5py.Empty("f"),
            np.arange(300, dtype=np.uint8),
        ),
        *(np.full(5, -1), np.full(5, 2**63 - 1), np.full((3, 4), np.nan), np.zeros(4, complex), np.void(b"abc")),
    )
