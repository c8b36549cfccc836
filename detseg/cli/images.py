"""Images on the command line: files and folders in, free names for what is written of each."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


def listed_images(sources: Sequence[Path]) -> list[Path]:
    """The files among the sources, and the images in the folders."""
    from detseg.data.formats.locate import list_images

    return [Path(path) for source in sources for path in (list_images(source) if source.is_dir() else [str(source)])]


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
