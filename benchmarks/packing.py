"""Reading an epoch of pictures: a packed file against a folder of JPEG files and against pictures in memory.

    python benchmarks/packing.py [--pictures 1000] [--size 256] [--source 640] [--repeats 2]

Draws JPEG files of --source pixels into a temporary folder and packs them. Then every way reads two epochs in a
process of its own, one thread: the first epoch after the files were dropped from the system's memory, as a set
larger than the memory is always read, the second with whatever the system has kept. Every picture is copied once, as
putting a batch together does.

    folder    read and decode a JPEG file, shrink it to --size
    packed    the packed file, pictures in random order
    by chunk  the packed file, chunks in random order (PackedPictures.order)
    memory    PictureCache: all in memory, filled once (its time is told too)

Memory is what the process grew by, from before the first picture to its highest.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import h5py  # noqa: F401 - loaded by all ways, so that it counts for none
import numpy as np
import psutil
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from detseg.data.dataset import PictureCache
from detseg.data.images import read_image
from detseg.data.labels import read_labels
from detseg.data.letterbox import resize_long_side
from detseg.data.packed import PackedPictures
from detseg.data.packing import write_pack

WAYS = ("folder", "packed", "by chunk", "memory")


def draw_pictures(folder: Path, count: int, side: int) -> None:
    """JPEG files of photo-like smoothness and grain, two classes."""
    rng = np.random.default_rng(0)
    grain = rng.normal(0, 6, (8, side * 3 // 4, side, 3)).astype(np.int16)
    for i in range(count):
        small = rng.integers(0, 256, (15, 20, 3), np.uint8)
        image = cv2.resize(small, (side, side * 3 // 4), interpolation=cv2.INTER_CUBIC)
        place = folder / "ab"[i % 2] / f"{i:06d}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(place), np.clip(image + grain[i % 8], 0, 255).astype(np.uint8))


def drop_from_memory(path: Path) -> None:
    """Ask the system to forget what it keeps of a file, or of the files of a folder."""
    for file in [path] if path.is_file() else path.rglob("*.jpg"):
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def megabytes() -> float:
    """Memory of this process."""
    return psutil.Process().memory_info().rss / 1e6


def measure(way: str, root: Path, size: int) -> dict[str, float]:
    """Seconds of two epochs, of filling the cache, and megabytes."""
    cv2.setNumThreads(0)
    rng = np.random.default_rng(0)
    data = read_labels(root / "pictures")
    before, filling = megabytes(), 0.0
    source: Callable[[int], NDArray[np.uint8]]
    if way == "folder":
        paths = data.paths.tolist()
        source = lambda i: resize_long_side(read_image(paths[i]), size)  # noqa: E731
    elif way == "memory":
        start = time.perf_counter()
        source = PictureCache(data.paths.tolist(), data.sizes, size).__getitem__
        filling = time.perf_counter() - start
    else:
        packed = PackedPictures(root / "set.h5", "train")
        source = packed.__getitem__
    drop_from_memory(root / ("pictures" if way == "folder" else "set.h5"))
    seconds, most = [], megabytes()
    for _ in range(2):
        order = packed.order(rng) if way == "by chunk" else rng.permutation(len(data))
        spent = 0.0
        for some in np.array_split(order, 10):
            start = time.perf_counter()
            for i in some.tolist():
                source(i).copy()
            spent += time.perf_counter() - start
            most = max(most, megabytes())
        seconds.append(spent)
    return {"first": seconds[0], "second": seconds[1], "filling": filling, "memory": most - before}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--source", type=int, default=640)
    parser.add_argument("--repeats", type=int, default=2, help="of every way, in turn; the best counts")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(measure(options.way, options.root, options.size)))
        return
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        draw_pictures(root / "pictures", options.pictures, options.source)
        start = time.perf_counter()
        write_pack(root / "set.h5", {"train": read_labels(root / "pictures")}, options.size)
        packing = time.perf_counter() - start
        found: dict[str, dict[str, float]] = {}
        for way in WAYS * options.repeats:
            command = [sys.executable, __file__, "--way", way, "--root", name, "--size", str(options.size)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            now = json.loads(done.stdout)
            found[way] = {figure: min(value, found.get(way, now)[figure]) for figure, value in now.items()}
        files = sum(file.stat().st_size for file in (root / "pictures").rglob("*.jpg")) / 1e6
        table = Table(
            title=f"{options.pictures} pictures of {options.source} px, read at {options.size} px, one thread",
            caption=f"packing took {packing:.1f} s, filling the memory {found['memory']['filling']:.1f} s\n"
            f"JPEG files {files:.0f} MB, packed file {(root / 'set.h5').stat().st_size / 1e6:.0f} MB",
        )
    for column in ("", "first epoch, pictures/s", "ratio", "second epoch, pictures/s", "ratio", "memory, MB"):
        table.add_column(column, justify="right" if column else "left")
    for way, row in found.items():
        cells = []
        for epoch in ("first", "second"):
            cells += [f"{options.pictures / row[epoch]:.0f}", f"{found['folder'][epoch] / row[epoch]:.1f}"]
        table.add_row(way, *cells, f"{row['memory']:.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
