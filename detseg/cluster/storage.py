"""Folders and files that several machines share: local paths, and whatever fsspec opens (`s3://`, `gs://`, …)."""

import uuid
from collections.abc import Collection
from pathlib import Path

from detseg.data.tar_shards import file_system, is_address, open_shard
from detseg.files import remove_unfinished, write_atomically
from detseg.reading import reading


def place_in(folder: str, name: str) -> str:
    """The address of what is called `name`, relative or not, seen from a folder."""
    if is_address(name) or Path(name).is_absolute():
        return name
    return f"{folder.rstrip('/')}/{name}" if is_address(folder) else str(Path(folder, name))


def file_names(folder: str) -> set[str]:
    """The names of the files in a folder, hidden ones too; none where there is no such folder."""
    with reading(folder):
        if is_address(folder):
            files, inside = file_system(folder)
            files.invalidate_cache()
            found = files.ls(inside, detail=True) if files.isdir(inside) else []
            return {entry["name"].rstrip("/").rpartition("/")[2] for entry in found if entry["type"] == "file"}
        path = Path(folder)
        return {entry.name for entry in path.iterdir() if entry.is_file()} if path.exists() else set()


def read(address: str) -> bytes:
    """The content of a file; raises FileError."""
    with open_shard(address) as file, reading(address):
        return file.read()


def write(address: str, content: bytes) -> None:
    """Write a file so that others see it whole or not at all, however many write it at a time.

    Locally a temporary file is renamed. Elsewhere it is moved, which object stores do as a copy: that too appears when
    it is whole. Raises OSError where it cannot be written.
    """
    if not is_address(address):
        write_atomically(Path(address), content)
        return
    files, inside = file_system(address)
    folder, _, name = inside.rpartition("/")
    files.makedirs(folder, exist_ok=True)
    temporary = f"{folder}/.{name}.{uuid.uuid4().hex[:8]}"
    files.pipe_file(temporary, content)
    files.mv(temporary, inside)


def exists(address: str) -> bool:
    """Whether there is a file."""
    if not is_address(address):
        return Path(address).is_file()
    files, inside = file_system(address)
    files.invalidate_cache()
    return bool(files.isfile(inside))


def remove_leftovers(folder: str, names: Collection[str]) -> None:
    """Remove the temporary files that writers of files with these names left when they died."""
    if not is_address(folder):
        remove_unfinished(Path(folder), names)
        return
    for left in file_names(folder):
        if left.startswith(".") and left[1:].rpartition(".")[0] in names:
            files, inside = file_system(place_in(folder, left))
            files.rm(inside)


def listed(folder: str, endings: tuple[str, ...]) -> list[str]:
    """The addresses of the files with some endings in a folder of fsspec and those below it, sorted; no hidden ones."""
    with reading(folder):
        files, inside = file_system(folder)
        names = [name for name in files.find(inside) if name.lower().endswith(endings)]
        depth = len(inside.rstrip("/"))
        return sorted(files.unstrip_protocol(name) for name in names if "/." not in name[depth:])


def is_folder(address: str) -> bool:
    """Whether there is a folder; raises FileError where it cannot be told."""
    if not is_address(address):
        return Path(address).is_dir()
    with reading(address):
        files, inside = file_system(address)
        return bool(files.isdir(inside))
