"""Loading large annotation files: detseg against the libraries that read them too, each in a process of its own.

    python benchmarks/annotations.py [--formats coco cvat datumaro openimages csv] [--images 100000] [--boxes 500000]
        [--polygons] [--peers-python ../peers/bin/python]

Writes a generated set of each format to a temporary folder, loads it with detseg and with those of pycocotools,
datumaro and globox that are installed for the Python of --peers-python, and prints seconds and peak memory. Boxes of
Open Images are shares, so its images are there and opened; images of the other formats are not.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

MEASURE = """
import json, re, resource, sys, time
from pathlib import Path
def peak():
    status = Path("/proc/self/status")
    if status.exists():  # what getrusage gives begins with the memory of the process that started this one
        return int(re.search("VmHWM:\\s+(\\d+)", status.read_text())[1]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
path = sys.argv[1]
{imports}
base, start, busy = peak(), time.perf_counter(), time.process_time()
loaded = {call}
seconds, cpu = time.perf_counter() - start, time.process_time() - busy
print(json.dumps(dict(seconds=seconds, cpu=cpu, added=peak() - base, objects={count})))
"""
WIDTH, HEIGHT, CLASSES = 640, 480, [f"class {i + 1}" for i in range(80)]
Boxes = list[tuple[int, float, float, float, float]]  # class, x1, y1, x2, y2


class Loader(NamedTuple):
    name: str
    imports: str
    call: str
    count: str


DETSEG = Loader(
    "detseg", "from detseg.data.formats import read_annotations", "read_annotations(path)", "len(loaded.ids)"
)


def datumaro(name: str) -> Loader:
    load = f"Dataset.import_from(path, {name!r})"
    # Datumaro reads when it is asked for the items.
    return Loader(
        "datumaro",
        "from datumaro.components.dataset import Dataset",
        f"(lambda data: (data.init_cache(), data)[1])({load})",
        "sum(len(item.annotations) for item in loaded)",
    )


def globox(call: str) -> Loader:
    return Loader(
        "globox",
        "from globox import AnnotationSet\nfrom pathlib import Path",
        f"AnnotationSet.{call}",
        "sum(len(item.boxes) for item in loaded)",
    )


# ------------------------------------------------------------------ files


def draw_boxes(images: int, boxes: int) -> list[Boxes]:
    """Random boxes, image by image."""
    draw = random.Random(0)
    drawn: list[Boxes] = [[] for _ in range(images)]
    for _ in range(boxes):
        x, y = draw.uniform(0, 500), draw.uniform(0, 400)
        corners = (x, y, draw.uniform(x + 5, WIDTH - 1), draw.uniform(y + 5, HEIGHT - 1))
        drawn[draw.randrange(images)].append((draw.randrange(len(CLASSES)), *(round(v, 2) for v in corners)))
    return drawn


def image_name(row: int) -> str:
    return f"{row + 1:012d}.jpg"


def write_json(path: Path, head: str, items: Iterator[object], tail: str = "]}") -> None:
    with path.open("w") as file:
        file.write(head)
        for number, item in enumerate(items):
            file.write(("," if number else "") + json.dumps(item))
        file.write(tail)


def write_coco(folder: Path, drawn: list[Boxes], polygons: bool) -> Path:
    draw = random.Random(1)

    def objects() -> Iterator[object]:
        number = 0
        for row, boxes in enumerate(drawn):
            for label, x1, y1, x2, y2 in boxes:
                number += 1
                w, h = round(x2 - x1, 2), round(y2 - y1, 2)
                item = {"id": number, "image_id": row + 1, "category_id": label + 1, "bbox": [x1, y1, w, h]}
                item |= {"area": round(w * h, 4), "iscrowd": 0}
                if polygons:
                    item["segmentation"] = [[round(x1 + w * draw.random(), 2) for _ in range(40)]]
                yield item

    images = [{"id": i + 1, "file_name": image_name(i), "width": WIDTH, "height": HEIGHT} for i in range(len(drawn))]
    names = [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)]
    head = f'{{"images": {json.dumps(images)}, "categories": {json.dumps(names)}, "annotations": ['
    path = folder / "instances_train.json"
    write_json(path, head, objects())
    return path


def write_datumaro(folder: Path, drawn: list[Boxes], polygons: bool) -> Path:
    def items() -> Iterator[object]:
        for row, boxes in enumerate(drawn):
            image = {"path": image_name(row), "size": [HEIGHT, WIDTH]}
            objects = []
            for label, x1, y1, x2, y2 in boxes:
                shape = {"type": "bbox", "bbox": [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)]}
                if polygons:
                    shape = {"type": "polygon", "points": [x1, y1, x2, y1, x2, y2, x1, y2]}
                objects.append({"id": 0, "attributes": {}, "group": 0, "label_id": label, "z_order": 0, **shape})
            yield {"id": Path(image_name(row)).stem, "annotations": objects, "image": image}

    labels = [{"name": name, "parent": "", "attributes": []} for name in CLASSES]
    head = json.dumps({"dm_format_version": "1.0", "media_type": 2, "infos": {}})[:-1]
    head += f', "categories": {{"label": {{"labels": {json.dumps(labels)}, "label_groups": [], "attributes": []}}}}'
    (folder / "annotations").mkdir()
    write_json(folder / "annotations/train.json", f'{head}, "items": [', items())
    return folder


def write_cvat(folder: Path, drawn: list[Boxes], polygons: bool) -> Path:
    labels = "".join(f"<label><name>{name}</name><attributes></attributes></label>" for name in CLASSES)
    link_images(folder / "images", len(drawn))  # datumaro asks for them
    path = folder / "train.xml"
    with path.open("w") as file:
        file.write('<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n  <meta>\n')
        file.write(f"    <task>\n      <mode>annotation</mode>\n      <labels>{labels}</labels></task>\n  </meta>\n")
        for row, boxes in enumerate(drawn):
            file.write(f'  <image id="{row}" name="{image_name(row)}" width="{WIDTH}" height="{HEIGHT}">\n')
            for label, x1, y1, x2, y2 in boxes:
                common = f'label="{CLASSES[label]}" source="manual" occluded="0"'
                shape = f'<box {common} xtl="{x1}" ytl="{y1}" xbr="{x2}" ybr="{y2}" z_order="0">\n    </box>'
                if polygons:
                    points = f"{x1},{y1};{x2},{y1};{x2},{y2};{x1},{y2}"
                    shape = f'<polygon {common} points="{points}" z_order="0">\n    </polygon>'
                file.write(f"    {shape}\n")
            file.write("  </image>\n")
        file.write("</annotations>\n")
    return folder


def link_images(folder: Path, count: int) -> None:
    """Many names of one image, or of a few: a file cannot have more than some ten thousand."""
    from PIL import Image

    folder.mkdir(parents=True)
    for row in range(count):
        first = row - row % 10_000
        if row == first:
            Image.new("RGB", (WIDTH, HEIGHT)).save(folder / image_name(row))
        else:
            os.link(folder / image_name(first), folder / image_name(row))


def write_openimages(folder: Path, drawn: list[Boxes], polygons: bool) -> Path:
    folder = folder / "openimages"
    (folder / "annotations").mkdir(parents=True)
    link_images(folder / "images/train", len(drawn))
    titles = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction"
    with (folder / "annotations/train-annotations-bbox.csv").open("w") as file:
        file.write(f"{titles},IsInside\n")
        for row, boxes in enumerate(drawn):
            for label, x1, y1, x2, y2 in boxes:
                shares = f"{x1 / WIDTH:.6f},{x2 / WIDTH:.6f},{y1 / HEIGHT:.6f},{y2 / HEIGHT:.6f}"
                file.write(f"{Path(image_name(row)).stem},xclick,/m/{label:05d},1,{shares},0,0,0,0,0\n")
    with (folder / "annotations/class-descriptions.csv").open("w", newline="") as file:
        csv.writer(file).writerows((f"/m/{label:05d}", name) for label, name in enumerate(CLASSES))
    return folder


def write_csv(folder: Path, drawn: list[Boxes], polygons: bool) -> Path:
    path = folder / "train.csv"
    with path.open("w") as file:
        file.write("filename,width,height,class,xmin,ymin,xmax,ymax\n")
        for row, boxes in enumerate(drawn):
            for label, *corners in boxes:
                file.write(f"{image_name(row)},{WIDTH},{HEIGHT},{CLASSES[label]},{','.join(map(str, corners))}\n")
    return path


class Kind(NamedTuple):
    write: Callable[[Path, list[Boxes], bool], Path]
    peers: tuple[Loader, ...] = ()


KINDS = {
    "coco": Kind(
        write_coco,
        (
            Loader("pycocotools", "from pycocotools.coco import COCO", "COCO(path)", "len(loaded.anns)"),
            globox("from_coco(path)"),
        ),
    ),
    "cvat": Kind(write_cvat, (datumaro("cvat"), globox("from_cvat(path + '/train.xml')"))),
    "datumaro": Kind(write_datumaro, (datumaro("datumaro"),)),
    # globox takes the ID for the name of the file, so its file has the extension.
    "openimages": Kind(
        write_openimages,
        (
            datumaro("open_images"),
            globox("from_openimage(path + '/../globox.csv', image_folder=path + '/images/train')"),
        ),
    ),
    "csv": Kind(write_csv),
}


# ------------------------------------------------------------------ measuring


def is_installed(loader: Loader, python: str) -> bool:
    return not subprocess.run([python, "-c", loader.imports], capture_output=True, cwd=Path.cwd()).returncode


def measure(loader: Loader, path: Path, python: str) -> dict[str, float] | None:
    """One run in a new process; None if it fails."""
    command = [python, "-c", MEASURE.format(**loader._asdict()), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path.cwd())
    if done.returncode:
        print(f"{loader.name}: {done.stderr.strip().splitlines()[-1]}")
        return None
    return json.loads(done.stdout.strip().splitlines()[-1])  # COCO() prints before it


def measure_in_turns(loaders: dict[Loader, str], path: Path, repeats: int) -> dict[str, dict[str, float]]:
    """The run of median CPU time of each loader, given with its Python; loaders that fail are left out."""
    runs: dict[str, list[dict[str, float]]] = {loader.name: [] for loader in loaders}
    for _ in range(repeats):
        for loader, python in loaders.items():
            if (run := measure(loader, path, python)) is not None:
                runs[loader.name].append(run)
    return {name: sorted(some, key=lambda run: run["cpu"])[len(some) // 2] for name, some in runs.items() if some}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--formats", nargs="*", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--boxes", type=int, default=500_000)
    parser.add_argument("--polygons", action="store_true", help="give objects an outline, where the format has them")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each, in turns; their median counts")
    parser.add_argument("--peers-python", default=sys.executable, help="that has datumaro and globox")
    options = parser.parse_args()
    drawn = draw_boxes(options.images, options.boxes)
    for name in options.formats:
        with tempfile.TemporaryDirectory() as folder:
            path = KINDS[name].write(Path(folder), drawn, options.polygons)
            size = sum(f.stat().st_size for f in Path(folder).rglob("*") if f.suffix in (".json", ".xml", ".csv"))
            if name == "openimages":
                copy_for_globox(path)
            peers = {p: options.peers_python for p in KINDS[name].peers if is_installed(p, options.peers_python)}
            results = measure_in_turns({DETSEG: sys.executable, **peers}, path, options.repeats)
        title = f"{name}: {options.images:,} images, {options.boxes:,} boxes, {size / 2**20:.0f} MB"
        Console().print(make_table(results, title))
    print("Ratios to detseg compare CPU seconds (which other work disturbs least) and memory added by loading.")


def copy_for_globox(folder: Path) -> None:
    text = (folder / "annotations/train-annotations-bbox.csv").read_text()
    (folder.parent / "globox.csv").write_text(text.replace(",xclick,", ".jpg,xclick,"))


def make_table(results: dict[str, dict[str, float]], title: str) -> Table:
    table = Table("loader", "objects", "seconds", "CPU seconds", "added peak MB", "slower", "larger", title=title)
    own = results.get("detseg")
    for name, run in results.items():
        ratios = (
            ("", "")
            if own is None
            else (f"{run['cpu'] / own['cpu']:.1f} x", f"{run['added'] / max(own['added'], 1):.1f} x")
        )
        cells = (f"{run['objects']:,}", f"{run['seconds']:.2f}", f"{run['cpu']:.2f}", f"{run['added']:.0f}")
        table.add_row(name, *cells, *ratios)
    return table


if __name__ == "__main__":
    main()
