"""Loading a large COCO JSON file: detseg against pycocotools, each in a process of its own.

    python benchmarks/annotations.py [--images 100000] [--boxes 1000000] [--polygons]

Writes a generated file to a temporary folder, loads it with both, and prints seconds and peak memory. The
images do not exist; neither loader opens them.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

MEASURE = """
import json, resource, sys, time
def peak():
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return usage / (2**20 if sys.platform == "darwin" else 2**10)
{imports}
base, start, busy = peak(), time.perf_counter(), time.process_time()
loaded = {call}
seconds, cpu = time.perf_counter() - start, time.process_time() - busy
print(json.dumps(dict(seconds=seconds, cpu=cpu, added=peak() - base, objects={count})))
"""

LOADERS = {
    "detseg read_annotations": {
        "imports": "from detseg.data.formats import read_annotations",
        "call": "read_annotations(sys.argv[1])",
        "count": "len(loaded.ids)",
    },
    "pycocotools COCO()": {
        "imports": "from pycocotools.coco import COCO",
        "call": "COCO(sys.argv[1])",
        "count": "len(loaded.anns)",
    },
}


def generate(path: Path, images: int, boxes: int, polygons: bool) -> None:
    """Write a COCO file with random boxes, and outlines of twenty points if asked."""
    draw = random.Random(0)
    with path.open("w") as file:
        file.write('{"info": {}, "licenses": [], "images": [')
        rows = (
            f'{{"id": {i + 1}, "file_name": "{i + 1:012d}.jpg", "width": 640, "height": 480, "license": 1}}'
            for i in range(images)
        )
        file.write(", ".join(rows))
        file.write('], "annotations": [')
        for number in range(boxes):
            x, y = draw.uniform(0, 500), draw.uniform(0, 400)
            w, h = draw.uniform(5, 639 - x), draw.uniform(5, 479 - y)
            item = {
                "id": number + 1,
                "image_id": draw.randint(1, images),
                "category_id": draw.randint(1, 80),
                "bbox": [round(v, 2) for v in (x, y, w, h)],
                "area": round(w * h, 4),
                "iscrowd": 0,
            }
            if polygons:
                item["segmentation"] = [[round(x + w * draw.random(), 2) for _ in range(40)]]
            file.write((", " if number else "") + json.dumps(item))
        names = [{"id": i + 1, "name": f"class {i + 1}"} for i in range(80)]
        file.write(f'], "categories": {json.dumps(names)}}}')


def measure(loader: dict[str, str], path: Path, repeats: int) -> dict[str, float]:
    """The fastest of several runs, each in a new process."""
    runs: list[dict[str, float]] = []
    for _ in range(repeats):
        command = [sys.executable, "-c", MEASURE.format(**loader), str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path.cwd())
        # COCO() prints to the standard output it was given.
        runs.append(json.loads(done.stdout.strip().splitlines()[-1]))
    return min(runs, key=lambda run: run["cpu"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--boxes", type=int, default=1_000_000)
    parser.add_argument("--polygons", action="store_true", help="give every object an outline of 20 points")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "instances_train.json"
        generate(path, options.images, options.boxes, options.polygons)
        size = path.stat().st_size / 2**20
        results = {name: measure(loader, path, options.repeats) for name, loader in LOADERS.items()}
    Console().print(make_table(results, title=f"{options.images:,} images, {options.boxes:,} boxes, {size:.0f} MB"))
    print("Ratios compare CPU seconds (which other work disturbs least) and memory added by loading.")


def make_table(results: dict[str, dict[str, float]], title: str) -> Table:
    peer = results["pycocotools COCO()"]
    table = Table("loader", "seconds", "CPU seconds", "added peak MB", "faster", "smaller", title=title)
    for name, run in results.items():
        ratios = (f"{peer['cpu'] / run['cpu']:.1f} x", f"{peer['added'] / run['added']:.1f} x")
        table.add_row(name, f"{run['seconds']:.2f}", f"{run['cpu']:.2f}", f"{run['added']:.0f}", *ratios)
    return table


if __name__ == "__main__":
    main()
