"""Images, packs, and the files of detections and ground truth that `detseg evaluate` compares."""

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from detseg.cli.evaluate import Evaluate
from detseg.cli.evaluate_detections import evaluate
from detseg.data.formats import find_label_sources, find_mask_sources, find_sources
from detseg.data.images import image_size, inspect_image, read_image
from detseg.data.index_png import read_index_image
from detseg.data.pack.datasets import write_pack
from detseg.data.pack.reader import OriginalMasks, PackedImages
from tests.fuzz import seeds
from tests.fuzz.forms_data import use
from tests.fuzz.harness import Form
from tests.fuzz.seeds import text

# ------------------------------------------------------------------ images

RGB = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
GREY_16 = np.arange(192, dtype=np.uint16).reshape(12, 16) * 300
IMAGES: dict[str, list[tuple[str, Any, dict[str, Any]]]] = {  # form -> name, pixels, options of Pillow
    "jpeg": [("a.jpg", RGB, {"quality": 80}), ("grey.jpg", RGB[..., 0], {}), ("p.jpg", RGB, {"progressive": True})],
    "png": [("a.png", RGB, {}), ("16.png", GREY_16, {}), ("alpha.png", np.dstack([RGB, RGB[..., :1]]), {})],
    "tiff": [
        *(("a.tif", RGB, {}), ("z.tif", RGB, {"compression": "tiff_lzw"}), ("16.tif", GREY_16, {})),
        ("bands.tif", np.dstack([RGB, RGB[..., :1]]), {}),
    ],
    "gif": [("a.gif", RGB[..., 0], {})],
    "bmp": [("a.bmp", RGB, {}), ("grey.bmp", RGB[..., 0], {})],
    "webp": [("a.webp", RGB, {}), ("whole.webp", np.dstack([RGB, RGB[..., :1]]), {"lossless": True})],
}


def make_images(folder: Path, form: str) -> list[Path]:
    for name, pixels, options in IMAGES[form]:
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(pixels).save(folder / name, **options, **({"exif": exif} if form == "jpeg" else {}))
    if form == "png":
        image = Image.fromarray(seeds.LABELS)
        image.putpalette([0, 0, 0, 250, 50, 83, 50, 183, 250])
        image.save(folder / "palette.png", transparency=0)
    return sorted(folder.iterdir())


def read_images(folder: Path) -> None:
    for file in sorted(folder.iterdir()):
        width, height = image_size(file)
        inspect_image(file)
        assert read_image(file).shape == (height, width, 3), f"{file}: its header says {width}x{height}"
        if file.name == "bands.tif":
            read_image(file, 4)
        if file.name == "palette.png":
            read_index_image(file)


# ------------------------------------------------------------------ packs

SETS: dict[str, tuple[Callable[[Path], Any], Callable[[Path], Any]]] = {
    "detection": (seeds.coco, find_sources),
    "segmentation": (seeds.mask_folders, find_mask_sources),
    "classification": (seeds.class_folders, find_label_sources),
}


def make_pack(folder: Path, task: str) -> list[Path]:
    make, find = SETS[task]
    made = folder.with_name(f"{folder.name}-made")  # beside it: only the pack is there to read
    made.mkdir()
    make(made)
    splits = {split or "train": read() for split, read in find(made).items()}
    write_pack(folder / "pack.h5", splits, 8, chunk=2)
    return [folder / "pack.h5"]


def read_pack(folder: Path, task: str) -> None:
    sources = SETS[task][1](folder / "pack.h5")
    for split, read in sources.items():
        use({split: read()}, repairing=False)
        packed = PackedImages(folder / "pack.h5", split)
        packed[len(packed) - 1]
        if task == "segmentation":
            OriginalMasks(folder / "pack.h5", split)[0]


# ------------------------------------------------------------------ evaluation


def make_evaluation(folder: Path, damaged: str) -> list[Path]:
    seeds.coco(folder)
    mask = {"size": [12, 16], "counts": "`0;"}
    found = [
        {
            **{"image_id": i % 2, "category_id": (7, 3)[i % 2], "bbox": [1 + i, 2.5, 5, 6.0], "score": 0.9 - i / 10},
            **{"segmentation": [[1.5, 2, 11, 2, 11, 9]] if i else mask},
        }
        for i in range(4)
    ]
    return [{"found.json": text(folder / "found.json", found), "train.json": folder / "train.json"}[damaged]]


def read_evaluation(folder: Path) -> None:
    from rich.console import Console

    console = Console(file=io.StringIO(), width=100)
    segm = (folder / "found.json").stat().st_size + (folder / "train.json").stat().st_size
    config = Evaluate(
        detections=folder / "found.json",
        ground_truth=folder / "train.json",
        iou_type=("bbox", "segm", "bbox")[segm % 3],  # type: ignore[arg-type]
        resamples=0,
    )
    tables = evaluate(config, console).tables
    if segm % 4 == 0:  # which takes several times as long
        console.print(*tables)


FORMS = [
    *(
        Form(f"image-{name}", partial(make_images, form=name), read_images, "" if name == "png" else "bytes", quick=100)
        for name in IMAGES
    ),
    *(
        Form(f"pack-{task}{more}", partial(make_pack, task=task), partial(read_pack, task=task), kind=kind, quick=25)
        for task in SETS
        for more, kind in (("", "hdf5"), ("-bytes", "bytes"))
    ),
    Form("detections", partial(make_evaluation, damaged="found.json"), read_evaluation),
    Form("ground-truth", partial(make_evaluation, damaged="train.json"), read_evaluation),
]
