"""The masks of Pascal VOC's objects: SegmentationObject/, whose files have the number of an object in every pixel.

Objects are numbered in the order of their <object> elements, from 1. 255 is the border around each, which belongs to
none.
"""

import logging
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from detseg.data.formats.instance_masks import objects_in
from detseg.data.formats.records import Fault, Item, RunLengths
from detseg.data.formats.voc_images import OTHER_XML_FOLDERS, subfolders
from detseg.data.formats.voc_xml import VocFile

log = logging.getLogger(__name__)

FOLDER = "segmentationobject"


def has_masks(lists: Path) -> bool:
    """Whether a folder is ImageSets/Segmentation/ of a set whose objects have masks."""
    return lists.name == "Segmentation" and any(one.name.lower() == FOLDER for one in subfolders(lists.parent.parent))


class VocMasks:
    """Gives the objects of XML files their masks, where there are any, and tells what did not fit.

    Args:
        place: the folder that holds the set.
    """

    def __init__(self, place: Path) -> None:
        while place.name.lower() in OTHER_XML_FOLDERS:  # the user named Annotations/
            place = place.parent
        self._place, self._folder = place, cache(self._find)
        self._damaged: list[str] = []
        self._unknown: list[str] = []
        self._missing: list[str] = []

    def _find(self, folder: Path) -> Path | None:
        """The folder of masks nearest to one of XML files, in it or beside it, no further up than the set."""
        for base in (folder, *folder.parents):
            for below in subfolders(base):
                if below.name.lower() == FOLDER:
                    return below
            if base == self._place:
                break
        return None

    def added(self, file: Path, found: VocFile) -> Sequence[Item | Fault]:
        """The objects of an XML file with their masks; those that have polygons keep these."""
        folder = self._folder(file.parent)
        mask = None if folder is None else folder / f"{file.stem}.png"
        if mask is None or not mask.is_file():
            return found.items
        from detseg.data.index_png import MaskError, read_index_image  # here: it brings OpenCV
        from detseg.data.sample import IGNORE

        try:
            values = read_index_image(mask)
        except MaskError as error:
            self._damaged.append(str(error))
            return found.items
        drawn = {item.number: item.counts for item in objects_in(values) if item.number != IGNORE}
        if unknown := sorted(drawn.keys() - set(found.numbers)):
            self._unknown.append(f"{mask}: {unknown[0]}")
        items: list[Item | Fault] = []
        for number, item in zip(found.numbers, found.items, strict=True):
            if isinstance(item, Item) and not item.polygons and found.numbers.count(number) == 1:
                counts = drawn.get(number)
                if counts is None:
                    self._missing.append(f"{file}: <object> {number} ({item.name})")
                else:
                    item = item._replace(mask=RunLengths(values.shape[0], values.shape[1], counts))
            items.append(item)
        return items

    def tell(self) -> None:
        """Log how many masks did not fit."""
        for what, where in (
            ("%s: %d mask files are not read, their objects have boxes only; the first is %s", self._damaged),
            ("%s: %d mask files have numbers of no <object>, these are left out; the first is %s", self._unknown),
            ("%s: %d objects have no pixels in the mask files, they have boxes only; the first is %s", self._missing),
        ):
            if where:
                log.warning(what, self._place, len(where), where[0])
