"""Frames a second of `detseg predict MODEL video.mp4 --save-video`, the whole command: torch and OpenVINO in turn.

    python benchmarks/video.py [--run RUN] [--frames 600] [--rounds 3] [--size 320]

The video is 640 x 360, drawn images that move. Decoding, the network, drawing, encoding, tables: everything but the
start of the command, which is measured with a video of one frame and taken off. Without a run it takes the default
detector as it is before training.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
from predict_folder import fresh_run, seconds
from rates import print_rates

from detseg.exporters import export
from detseg.flowers.dataset import write_flowers

WIDTH, HEIGHT = 640, 360


def write_video(path: Path, image: np.ndarray, frames: int) -> Path:
    """A window that moves over an image."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25, (WIDTH, HEIGHT))
    for number in range(frames):
        left, top = number % (image.shape[1] - WIDTH), number // 2 % (image.shape[0] - HEIGHT)
        writer.write(np.ascontiguousarray(image[top : top + HEIGHT, left : left + WIDTH]))
    writer.release()
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=None)
    parser.add_argument("--frames", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=320)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        drawn = sorted((write_flowers(folder / "drawn", train=1, val=12, seed=0) / "images").iterdir())
        tiles = [cv2.resize(cv2.imread(str(path)), (400, 300)) for path in drawn[:12]]
        scene = np.vstack([np.hstack(tiles[row : row + 4]) for row in (0, 4, 8)])
        whole = write_video(folder / "whole.mp4", scene, options.frames)
        one = write_video(folder / "one.mp4", scene, 1)
        run, output = options.run or fresh_run(folder / "run"), folder / "output"
        images = [str(path) for path in drawn]
        models = {
            "torch": run,
            "OpenVINO": export(run, "openvino", folder / "float" / "model.xml"),
            "OpenVINO int8": export(run, "openvino", folder / "int8" / "model.xml", int8=images),
        }

        def predicting(model: Path, video: Path) -> list[str]:
            words = ["predict", model, video, "--output", output, "--size", options.size, "--save-video"]
            return [sys.executable, "-m", "detseg", *map(str, words)]

        rates: dict[str, list[float]] = {title: [] for title in models}
        for _ in range(options.rounds):
            for title, model in models.items():
                start = seconds(predicting(model, one), output)
                rates[title].append((options.frames - 1) / (seconds(predicting(model, whole), output) - start))
    print_rates(f"{options.frames} frames of {WIDTH} x {HEIGHT} at {options.size} px, {os.cpu_count()} cores", rates)


if __name__ == "__main__":
    main()
