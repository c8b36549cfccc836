"""What an annotation format is: one record in the list that recognition, messages, help and docs go by."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from detseg.data.annotations import AnnotationError
from detseg.reading import cause, reading

Gives = Literal["objects", "masks", "labels"]
Holds = Literal["polygons", "masks", "crowd", "scores", "category ids", "image ids"]
Sources = dict[str, Callable[[], Any]]  # split -> its reader; "" where there are no splits
Find = Callable[..., Sources | None]

SPLITS = {  # and how people spell them
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}


class NotRecognisedError(AnnotationError):
    """A path that holds no format of the kind that was asked for."""


@dataclass(frozen=True)
class Format:
    """One form in which annotations are kept on disk.

    `find(path, images)` gives the splits at an existing path, each with a function that reads it, or None when the path
    is not of this form. A format of masks also gets `masks`, `ignore_value` and `threshold`. AnnotationError may be
    raised for a path that is of this form and damaged.
    """

    name: str  # for code, such as "coco"
    title: str  # for people, such as "COCO"
    looks_for: str  # a line that says what a file or folder of this form looks like
    find: Find
    read: Callable[..., Any] | None = None  # reads one split by itself, for callers that know the form
    write: Callable[..., None] | None = None  # `write(annotations, folder, split, images=)`; see `write_dataset`
    holds: frozenset[Holds] = frozenset()  # what it can say beside boxes, class names and images without objects
    gives: Gives = "objects"
    takes_images: bool = True  # whether a folder of images may be named, or the form says itself where they are
    holds_images: bool = False  # whether `write` puts images inside its files, however they are to be placed
    names: Callable[[Path], bool] = lambda path: False  # whether a path where nothing is may be meant, as a pattern
    guess: Find | None = None  # as `find`, for weaker signs: asked when no format's `find` knows the path


def found_by(find: Find, path: Path, images: str | Path | None, options: Mapping[str, Any]) -> Sources | None:
    """What `find` or `guess` of a format finds, with readers; whatever else they raise becomes one message with a name.

    Raises:
        AnnotationError: the path is damaged, or nothing that this format expects; the readers raise it too.
        OSError: a folder or file may not be read.
    """
    try:
        sources = find(path, images, **options)
    except OSError:
        raise
    except Exception as error:
        with reading(path):
            raise error
    return sources and {split: partial(_through_door, path, read) for split, read in sources.items()}


def _through_door(path: Path, read: Callable[[], Any]) -> Any:
    with reading(path):
        try:
            return read()
        except OSError as error:
            raise AnnotationError(f"{error.filename or path}: cannot be read: {cause(error)}") from error


FORMATS: list[Format] = []  # in the order in which they are asked; `detseg.data.formats` fills it


def formats_of(gives: Gives) -> list[Format]:
    """The formats that give objects, masks or labels."""
    return [format for format in FORMATS if format.gives == gives]


def asked(path: Path, gives: Gives) -> list[Format]:
    """The formats that are asked whether they know a path; AnnotationError if nothing is there and it is no pattern."""
    if path.exists():
        return formats_of(gives)
    named = [format for format in FORMATS if format.names(path)]
    if not named:
        raise AnnotationError(f"{path}: does not exist")
    return [format for format in named if format.gives == gives]


def titles(formats: list[Format], joint: str = "or") -> str:
    """Their titles as words: "COCO, VOC or YOLO"."""
    names = list(dict.fromkeys(format.title for format in formats))
    return f" {joint} ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def looked_for(gives: Gives) -> str:
    """What a message lists when a path holds no format of a kind: one line each."""
    return "".join(f"\n  {format.title}: {format.looks_for}" for format in formats_of(gives))
