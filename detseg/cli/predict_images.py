"""What `detseg predict` makes of a detector or segmenter: drawings, masks, labels, crops and `detections.json`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detseg.cli.images import free_names
from detseg.cli.predictions import DETECTIONS, Found, Reader, batch_of, find_in, refuse_taken, write_found
from detseg.cli.save_results import FOLDERS, savers, so_far
from detseg.console import one_line, print_line, track
from detseg.files import make_folder, write_atomically
from detseg.sources import ahead

if TYPE_CHECKING:
    from detseg.cli.predict import Predict


def write_images(model: Any, reader: Reader, config: Predict, ids: Sequence[int], listed: set[int] | None) -> None:
    """Print what is found in the images of a reader, draw and write it.

    Args:
        ids: the image id of each image, for `detections.json`.
        listed: the category ids of the ground truth that the detections are for, if there is one.

    Raises:
        ValueError: an image could not be read, or drawings are gone; the others are written.
    """
    segments, console = model.task == "segment", reader.console
    endings = {".jpg": "a drawing"} | ({".png": "a mask"} if segments or config.label_images else {})
    names = free_names(reader.images, lambda name: {config.output / f"{name}{end}": w for end, w in endings.items()})
    targets = [config.output / f"{name}.jpg" for name in names]
    refuse_taken(targets, endings, segments=segments)
    again = (config.output / DETECTIONS).exists() or any(target.exists() for target in targets)
    saves = [] if segments else savers(config, model.names, again=again)
    make_folder(config.output)

    def written_down(item: tuple[int, Found]) -> tuple[int, Found]:
        write_found(item[1], targets[item[0]])
        for save in saves:
            save(item[1].objects, names[item[0]])
        return item

    results: list[dict[str, Any]] = []
    drawn: list[Path] = []
    wanted = None if getattr(getattr(model, "model", None), "tree", None) is None else listed
    left_out = 0
    shown = track(reader, len(reader.images), what="predicting", console=console)
    # Written in threads, while the network looks at the next images.
    with so_far(len(reader.images), "images") as done:
        for position, found in done(ahead(written_down, find_in(shown, model, config), batch_of(model))):
            image = one_line(reader.names[position])
            rows = [row for row in found.results if wanted is None or row["category_id"] in wanted]
            left_out += len(found.results) - len(rows)
            results += [{"image_id": ids[position], "file_name": image} | row for row in rows]
            drawn.append(targets[position])
            print_line(console, f"{reader.names[position]}: {found.text}")
    written = ["images with classes and masks" if segments else _drawn(model)]
    written += ["label images"] if config.label_images else []
    written += [f"{folder}/" for option, folder in FOLDERS.items() if getattr(config, option)]
    if not segments or config.boxes:
        _write_results(results, config.output / DETECTIONS)
        written.append(DETECTIONS)
        if left_out:
            what = f"{left_out} detections of classes of the tree that {config.image_ids} does not list"
            print_line(console, f"{what} are not in {DETECTIONS}")
    print_line(console, f"{', '.join(written[:-1])}{' and ' * (len(written) > 1)}{written[-1]} are in {config.output}")
    reader.finish()
    if gone := [target for target in drawn if not target.exists()]:
        raise ValueError(
            f"{len(gone)} of {len(drawn)} images are not there any more, the first is {gone[0]}: was the "
            "folder removed meanwhile? Predict again"
        )


def _drawn(model: Any) -> str:
    """What a detector's drawings show."""
    return f"images with boxes{' and masks' if getattr(model, 'finds_masks', False) else ''}"


def _write_results(results: Sequence[dict[str, Any]], path: Path) -> None:
    """COCO results, a line for each."""
    lines = ",\n".join(json.dumps(result, ensure_ascii=False) for result in results)
    write_atomically(path, f"[\n{lines}\n]\n" if lines else "[]\n")
