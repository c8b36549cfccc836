"""Milliseconds of a whole `predict` of one image: the same detector in torch and in each engine, and ultralytics'.

    python benchmarks/engines.py [--run RUN] [--images FOLDER] [--rounds 3] [--ultralytics-python PYTHON]

Reading the file, letterboxing, the network, selection: everything. Each contender in a process of its own, in turn,
round by round, at 320 px; medians of 100 images. Without a run it takes the default detector as it is before training,
without images it draws some. ultralytics' YOLO11n (untrained) is exported by its own exporter to OpenVINO; it is AGPL
and no dependency of detseg: install it into an environment of its own and name that environment's Python.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from predict_folder import SIZE, draw, fresh_run
from rich.console import Console
from rich.table import Table

import detseg
from detseg.exporters import export

COUNT, WARM = 100, 10
ULTRALYTICS = f"""
import json, os, shutil, statistics, sys, time
os.environ["YOLO_OFFLINE"] = "true"
from ultralytics import YOLO
folder = sys.argv[1]
place = os.path.join(folder, "yolo11n_openvino_model")
if not os.path.isdir(place):
    os.chdir(folder)
    model = YOLO("yolo11n.yaml")
    made = model.export(format="openvino", imgsz={SIZE}, verbose=False)
    shutil.move(made, place) if os.path.abspath(made) != place else None
model = YOLO(place, task="detect")
spent = []
for path in sys.argv[2:]:
    started = time.perf_counter()
    model.predict(path, imgsz={SIZE}, conf=0.3, device="cpu", verbose=False)
    spent.append(time.perf_counter() - started)
print(json.dumps(1000 * statistics.median(spent[{WARM}:])))
"""


def child(model: str, images: list[str]) -> None:
    """Print the median milliseconds of `predict` of a run folder or an exported file."""
    predictor, spent = detseg.load(model), []
    for path in images:
        started = time.perf_counter()
        predictor.predict(path, score_threshold=0.3, size=SIZE)
        spent.append(time.perf_counter() - started)
    print(json.dumps(1000 * statistics.median(spent[WARM:])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=None)
    parser.add_argument("--images", type=Path, default=None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ultralytics-python", default=None)
    parser.add_argument("--child", nargs="+", default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child[0], options.child[1:])
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = [str(p) for p in sorted((options.images or draw(folder)).iterdir())][: COUNT + WARM]
        run = options.run or fresh_run(folder / "run")
        own = [sys.executable, __file__, "--child"]
        contenders = {"torch": [*own, str(run), *images]}
        for title, form, ending, more in (
            ("onnxruntime", "onnx", "onnx", {}),
            ("OpenVINO", "openvino", "xml", {}),
            ("OpenVINO int8", "openvino", "xml", {"int8": images}),
        ):
            path = export(run, form, folder / f"{title}.{ending}", **more)
            contenders[title] = [*own, str(path), *images]
        if options.ultralytics_python:
            peer = [options.ultralytics_python, "-c", ULTRALYTICS, str(folder), *images]
            contenders["ultralytics YOLO11n, OpenVINO"] = peer
        times: dict[str, list[float]] = {title: [] for title in contenders}
        for _ in range(options.rounds):
            for title, command in contenders.items():
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    raise SystemExit(done.stderr)
                times[title].append(float(done.stdout.strip().splitlines()[-1]))
    table = Table(title=f"whole predict of one image at {SIZE} px, {os.cpu_count()} cores")
    for column in ("", "ms", "times torch"):
        table.add_column(column, justify="right" if column else "left")
    for title, found in times.items():
        ratio = statistics.median(a / b for a, b in zip(times["torch"], found, strict=True))
        table.add_row(title, f"{statistics.median(found):.1f}", f"{ratio:.2f} x")
    Console().print(table)


if __name__ == "__main__":
    main()
