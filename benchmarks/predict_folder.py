"""Images a second of `detseg predict RUN FOLDER` and of ultralytics' `predict`, whole commands in turn.

    python benchmarks/predict_folder.py [--run RUN] [--images FOLDER] [--rounds 3] [--ultralytics-python PYTHON]

Without images it draws 500 JPEGs of 480 x 360; without a run it takes the default detector as it is before training.
Both commands read, find and write drawn JPEGs, at 320 px and at a score of 0.3. Their start, which imports torch, is
measured with one image and taken off. ultralytics (YOLO11n, untrained) is AGPL and no dependency of detseg: install it
into an environment of its own and name that environment's Python.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from inference import description
from PIL import Image
from rates import print_rates

from detseg.flowers.dataset import write_flowers
from detseg.models import build_model, save_model

COUNT, WIDTH, HEIGHT, SIZE = 500, 480, 360, 320
ULTRALYTICS = f"""
import os, sys, torch
os.environ["YOLO_OFFLINE"] = "true"
torch.set_num_threads(os.cpu_count())
from ultralytics import YOLO
model = YOLO("yolo11n.yaml")
results = model.predict(sys.argv[1], imgsz={SIZE}, conf=0.3, save=True, project=sys.argv[2], device="cpu", stream=True,
                        batch=8, verbose=False)
print(sum(1 for _ in results))
"""


def draw(folder: Path) -> Path:
    """A folder of JPEGs, 40 drawn images again and again."""
    drawn = sorted((write_flowers(folder / "drawn", train=1, val=40, seed=0) / "images").iterdir())
    target = folder / "jpegs"
    target.mkdir()
    for number in range(COUNT):
        with Image.open(drawn[number % len(drawn)]) as image:
            image.convert("RGB").resize((WIDTH, HEIGHT)).save(target / f"{number:04}.jpg", quality=90)
    return target


def fresh_run(folder: Path) -> Path:
    """The run folder of an untrained detector."""
    folder.mkdir()
    save_model(folder, build_model(description()["architecture"], pretrained=True), description())
    return folder


def seconds(command: list[str], output: Path) -> float:
    """How long a command takes; what it writes is removed."""
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"CI": "1"})
    taken = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(done.stderr)
    shutil.rmtree(output, ignore_errors=True)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=None)
    parser.add_argument("--images", type=Path, default=None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ultralytics-python", default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = options.images or draw(folder)
        run, output = options.run or fresh_run(folder / "run"), folder / "output"
        files = sorted(images.iterdir())
        one = folder / "one"
        one.mkdir()
        shutil.copy(files[0], one)

        def detseg(source: Path) -> list[str]:
            words = ["-m", "detseg", "predict", run, source, "--output", output, "--size", SIZE]
            return [sys.executable, *map(str, words), "--score-threshold", "0.3"]

        def ultralytics(source: Path) -> list[str]:
            return [options.ultralytics_python, "-c", ULTRALYTICS, str(source), str(output)]

        contenders = {"detseg predict": detseg}
        if options.ultralytics_python:
            contenders = {"ultralytics YOLO11n": ultralytics} | contenders
        rates: dict[str, list[float]] = {contender: [] for contender in contenders}
        for _ in range(options.rounds):
            for contender, command in contenders.items():
                start = seconds(command(one), output)
                rates[contender].append((len(files) - 1) / (seconds(command(images), output) - start))
    print_rates(f"{len(files)} images at {SIZE} px, {os.cpu_count()} cores", rates)


if __name__ == "__main__":
    main()
