"""Annotation formats, one file each, and the readers of data sets in any of them.

A format is known to `--data`, to every reader, message and help text by its entry in `FORMATS`.
"""

from detseg.data.formats import (
    box_table,
    class_folders,
    coco,
    createml,
    cvat,
    datumaro,
    dlib,
    instance_masks,
    kitti,
    label_studio,
    label_table,
    labelbox,
    labelme,
    mask_folders,
    mnist,
    named_files,
    open_images,
    packed,
    supervisely,
    via,
    visdrone,
    voc,
    webdataset,
    yolo,
)
from detseg.data.formats.coco import read_coco, write_coco
from detseg.data.formats.format import FORMATS, Format, NotRecognisedError, formats_of, looked_for, titles
from detseg.data.formats.mask_folders import has_mask_files
from detseg.data.formats.read import (
    find_label_sources,
    find_mask_sources,
    find_sources,
    read_annotations,
    read_dataset,
    read_label_splits,
    read_labelled_dataset,
    read_labels,
    read_mask_dataset,
    read_masks,
)
from detseg.data.formats.voc import read_voc
from detseg.data.formats.write import write_dataset, write_masks, write_voc, write_yolo
from detseg.data.formats.yolo import read_yolo

__all__ = [
    "FORMATS",
    "Format",
    "NotRecognisedError",
    "find_label_sources",
    "find_mask_sources",
    "find_sources",
    "formats_of",
    "has_mask_files",
    "looked_for",
    "read_annotations",
    "read_coco",
    "read_dataset",
    "read_label_splits",
    "read_labelled_dataset",
    "read_labels",
    "read_mask_dataset",
    "read_masks",
    "read_voc",
    "read_yolo",
    "titles",
    "write_coco",
    "write_dataset",
    "write_masks",
    "write_voc",
    "write_yolo",
]

FORMATS += [
    cvat.FORMAT,  # before those that go by names of files and folders: these know their files by content
    *webdataset.FORMATS,
    dlib.FORMAT,
    datumaro.FORMAT,
    kitti.FORMAT,
    visdrone.FORMAT,
    labelme.FORMAT,
    via.FORMAT,
    label_studio.FORMAT,
    createml.FORMAT,
    labelbox.FORMAT,
    supervisely.FORMAT,
    coco.FORMAT,
    voc.FORMAT,
    instance_masks.FORMAT,
    yolo.FORMAT,
    open_images.FORMAT,
    box_table.FORMAT,
    mask_folders.FORMAT,
    label_table.FORMAT,
    class_folders.FORMAT,
    mnist.FORMAT,
    named_files.FORMAT,
    *packed.FORMATS,
]
