"""Files of images: which kinds are taken, which are left out and what to do about it, and the images of a folder."""

import os
from collections import Counter
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from detseg.reading import kind_of_special

HEIC_EXTENSIONS = (".heic", ".heif", ".hif")
HEIC_READERS = ("pi_heif", "pillow_heif")  # as in `detseg.data.images`, which brings OpenCV
IMAGE_EXTENSIONS = (
    ".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".jfif", ".gif", ".avif", ".jp2", ".mpo", ".ppm",
    ".pgm", ".pnm", *(HEIC_EXTENSIONS if any(find_spec(name) for name in HEIC_READERS) else ()),
)  # fmt: skip
OTHER_EXTENSIONS = (  # of images too, and not read
    *HEIC_EXTENSIONS, ".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".svg", ".psd", ".xcf",
    ".jxl", ".exr", ".hdr", ".tga", ".ico", ".pbm", ".pcx", ".dcm",
)  # fmt: skip
SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"RIFF", b"\0\0\0")
"""What the files of images begin with; three zeros are JPEG 2000, AVIF and HEIC."""


def list_images(folder: Path) -> list[str]:
    """All images in a folder and the folders below it, without hidden ones, sorted by path."""
    return scan_images(folder)[0]


def scan_images(folder: Path) -> tuple[list[str], list[str]]:
    """The images of `list_images`, and the files of images beside them that are not read, both sorted by path."""
    found, others, seen = [], [], set()
    top = os.path.realpath(folder)
    for where, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(where)
        # Jupyter keeps copies in .ipynb_checkpoints; a link to a folder above leads for ever, and to other splits.
        again = real in seen or top.startswith(real.rstrip(os.sep) + os.sep)
        folders[:] = [] if again else [name for name in sorted(folders) if not name.startswith(".")]
        if again:
            continue
        seen.add(real)
        names = [name for name in names if not name.startswith(".")]
        images = [name for name in names if name.lower().endswith(IMAGE_EXTENSIONS)]
        found += [os.path.join(where, name) for name in images]  # noqa: PTH118 - speed
        if len(images) < len(names):
            others += [path for name in names if (path := _other_image(where, name))]
    return sorted(found), sorted(others)


def _other_image(where: str, name: str) -> str:
    """The path of a file that is an image and not read, else nothing."""
    extension = name.lower()[name.rfind(".") :] if "." in name else ""
    path = os.path.join(where, name)  # noqa: PTH118 - speed
    if extension:
        return path if extension in OTHER_EXTENSIONS and extension not in IMAGE_EXTENSIONS else ""
    if kind_of_special(path):
        return ""
    try:
        with open(path, "rb") as opened:  # noqa: PTH123 - speed
            return path if opened.read(8).startswith(SIGNATURES) else ""
    except OSError:
        return ""


def left_out(files: Iterable[str]) -> list[tuple[str, str]]:
    """For each kind among files that are not read: how many there are, and what to do."""
    told = []
    files = list(files)
    for extension, count in sorted(Counter(Path(file).suffix.lower() for file in files).items()):
        first = next(file for file in files if file.lower().endswith(extension))
        remedy = "save them as JPEG or PNG"
        if not extension:
            first, remedy = next(file for file in files if not Path(file).suffix), "add .jpg or what they are"
        elif extension in HEIC_EXTENSIONS:
            remedy = "pip install 'detseg[heic]', or save them as JPEG"
        noun = f"{extension} file" if extension else "image without extension"
        plural = f"{noun}s are" if extension else "images without extension are"
        told.append((f"{count} {plural if count > 1 else f'{noun} is'} left out, the first is {first}", remedy))
    return told
