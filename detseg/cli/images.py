"""Images on the command line: files and folders in, free names for what is written of each."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

log = logging.getLogger(__name__)


def listed_images(sources: Sequence[Path]) -> list[Path]:
    """The files among the sources, and the images in the folders; files of images that are not read are logged."""
    from detseg.data.formats.image_files import left_out, scan_images

    found = []
    for source in sources:
        images, others = scan_images(source) if source.is_dir() else ([str(source)], [])
        found += [Path(path) for path in images]
        for what, remedy in left_out(others):
            log.warning("%s (%s)", what, remedy)
    return found


def free_names(images: Sequence[Path], written: Callable[[str], Mapping[Path, str]]) -> list[str]:
    """A name of its own for each image: its file's, numbered where several folders have files of that name.

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
        name, number = image.stem, 2
        while name.lower() in taken:  # some file systems take A.jpg and a.jpg for the same
            name, number = f"{image.stem}-{number}", number + 1
        taken.add(name.lower())
        names.append(name)
        for file, what in written(name).items():
            if file.resolve() in originals:
                raise ValueError(f"{file} would be overwritten by {what}; give another --output")
    return names
