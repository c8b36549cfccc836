"""Images on the command line: files and folders in, free names for what is written of each."""

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from detseg.files import safe_name
from detseg.sources.addresses import download, is_web_address

log = logging.getLogger(__name__)


@contextmanager
def local_images(sources: Sequence[str], *, recursive: bool = True) -> Iterator[dict[Path, str]]:
    """The files among the sources, the images in the folders, and those at web addresses, each with what to call it.

    Folders are looked through with those below them, unless not `recursive`.
    Files of images that are not read are logged. What is downloaded is in a temporary folder inside the block.
    ValueError: an address gives nothing.
    """
    from detseg.data.formats.image_files import left_out, scan_images

    with tempfile.TemporaryDirectory(prefix="detseg-") as folder:
        found: dict[Path, str] = {}
        for number, source in enumerate(sources):
            if is_web_address(source):
                found[_download(source, Path(folder) / str(number))] = source
            else:
                paths, others = scan_images(Path(source)) if Path(source).is_dir() else ([source], [])
                if not recursive and Path(source).is_dir():
                    paths, others = ([p for p in some if Path(p).parent == Path(source)] for some in (paths, others))
                found |= {Path(path): str(Path(path)) for path in paths}
                for what, remedy in left_out(others):
                    log.warning("%s (%s)", what, remedy)
        yield found


def _download(address: str, folder: Path) -> Path:
    """The file at a web address, under its own name in a folder."""
    content = download(address)
    name = Path(unquote(urlsplit(address).path)).name or "image"
    folder.mkdir()
    path = folder / safe_name(name[-100:])
    path.write_bytes(content)
    return path


def free_names(images: Sequence[Path], written: Callable[[str], Mapping[Path, str]]) -> list[str]:
    """A `safe_name` of its own for each image: its file's, numbered where several folders have files of that name.

    Args:
        images: the images.
        written: the files that are written for a name, and what each is: "a drawing".

    Raises:
        ValueError: one of these files is one of the images.
    """
    originals = {image.resolve() for image in images}
    taken: set[str] = set()
    names = []
    for image in images:
        stem = name = safe_name(image.stem) or "image"
        number = 2
        while name.lower() in taken:  # some file systems take A.jpg and a.jpg for the same
            name, number = f"{stem}-{number}", number + 1
        taken.add(name.lower())
        names.append(name)
        for file, what in written(name).items():
            if file.resolve() in originals:
                raise ValueError(f"{file} would be overwritten by {what}; give another --output")
    return names
