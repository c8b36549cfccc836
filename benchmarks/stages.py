"""Images a second and core of each stage of prediction, and what millions of images take.

    python benchmarks/stages.py [--run RUN] [--images FOLDER] [--width 1280] [--processes 1 2 4] [--seconds 10]
                                [--cores 32] [--network 10] [--disk 500] [--days 1] [--price 0.04]

Read, decode, letterbox, network, selection (non-max suppression, boxes in the image's pixels), write (a line of JSON):
each process has one thread, and does one stage after the other of batches of 8, as `detseg predict` without drawings.
Engines: torch, and onnxruntime and OpenVINO where they are installed, whose graphs hold the suppression. Rates are
those of all images in `--seconds`. Files come from memory after their first reading: what a disk or network gives is no
measurement here but an assumption of the second table (`--disk` MB/s and `--network` Gbit/s of a machine of `--cores`).

The second table takes these rates for a core of a machine, and says for 10 million and for a billion images how many
core-hours they are, what those cost at `--price` a core-hour (0.04 dollars, about what a virtual core costs at large
clouds by the hour), how many machines do it in `--days`, and what is used up first when a machine gets more cores.
Without a run it takes the default detector as it is before training, without images it draws some.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from predict_folder import fresh_run
from rich.console import Console
from rich.table import Table

from detseg.flowers.dataset import write_flowers

STAGES = ("read", "decode", "letterbox", "network", "selection", "write")
BATCH, DRAWN, WARM = 8, 24, 2
COUNTS = {"10 million": 10_000_000, "a billion": 1_000_000_000}
ENGINES = {"torch": ("", "torch"), "onnxruntime": ("onnx", "onnxruntime"), "openvino": ("xml", "openvino")}


def torch_stages(predictor: Any, size: int) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """What the network and the selection of a run do."""
    import torch

    from detseg.detect.model import select
    from detseg.predict.predictor import model_input

    model = predictor.model

    def network(squares: list[np.ndarray]) -> Any:
        with torch.inference_mode():
            return model.raw(model_input(model, np.stack(squares)))

    def selection(outputs: Any, boxes: list[Any], shapes: list[tuple[int, int]]) -> list[dict[str, Any]]:
        chosen = [select(b, s, (size, size), model).found for b, s in zip(outputs[0], outputs[1], strict=True)]
        for found, box, (height, width) in zip(chosen, boxes, shapes, strict=True):
            found["boxes"] = box.to_original(found["boxes"], (width, height))
        return [{name: values.numpy() for name, values in found.items()} for found in chosen]

    return network, selection


def exported_stages(predictor: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The same of an exported model."""
    from detseg.runtime.paste import in_image

    def selection(outputs: Any, boxes: list[Any], shapes: list[tuple[int, int]]) -> list[dict[str, Any]]:
        results = []
        for i, (box, shape) in enumerate(zip(boxes, shapes, strict=True)):
            rows = np.flatnonzero(outputs["images"] == i)
            one = {name: values[rows] for name, values in outputs.items() if name != "images"}
            results.append(in_image(one, box, shape, coded=True))
        return results

    return predictor.run, selection


def child(model: Path, folder: Path, seconds: float) -> None:
    """Print the images that were done, the seconds of each stage and those of all."""
    from detseg.data.images import decode_image
    from detseg.data.letterbox import letterbox_image
    from detseg.results import Results

    if model.is_dir():
        import torch

        from detseg.predict import load

        torch.set_num_threads(1)
        predictor = load(model)
        size = predictor.size
        network, selection = torch_stages(predictor, size)
    else:
        from detseg.runtime import load as load_file

        predictor = load_file(model, threads=1)
        size = predictor.size
        network, selection = exported_stages(predictor)
    import cv2

    cv2.setNumThreads(1)
    files = sorted(folder.iterdir())
    spent, done, batches = dict.fromkeys(STAGES, 0.0), 0, 0
    begun = 0.0
    with tempfile.TemporaryFile("w") as output:
        while batches <= WARM or time.perf_counter() - begun < seconds:
            if batches == WARM:  # compiled, allocated, and files in memory
                spent, done, begun = dict.fromkeys(STAGES, 0.0), 0, time.perf_counter()
            paths = [files[(batches * BATCH + i) % len(files)] for i in range(BATCH)]
            clock = [time.perf_counter()]
            contents = [path.read_bytes() for path in paths]
            clock.append(time.perf_counter())
            images = [decode_image(data, path) for data, path in zip(contents, paths, strict=True)]
            clock.append(time.perf_counter())
            squares, boxes = zip(*(letterbox_image(image, size) for image in images), strict=True)
            clock.append(time.perf_counter())
            outputs = network(list(squares))
            clock.append(time.perf_counter())
            found = selection(outputs, boxes, [image.shape[:2] for image in images])
            clock.append(time.perf_counter())
            results = (Results(one, path, predictor.categories) for one, path in zip(found, paths, strict=True))
            output.write("".join(f"{result.to_json()}\n" for result in results))
            output.flush()
            clock.append(time.perf_counter())
            for stage, start, end in zip(STAGES, clock, clock[1:], strict=False):
                spent[stage] += end - start
            batches, done = batches + 1, done + BATCH
        taken = time.perf_counter() - begun
    print(json.dumps({"images": done, "seconds": taken, "stages": spent}))


def measure(model: Path, folder: Path, seconds: float, processes: int) -> list[dict[str, Any]]:
    """What so many processes print that work at the same time."""
    command = [sys.executable, __file__, "--child", str(model), str(folder), str(seconds)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    pipe = subprocess.PIPE
    running = [
        subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment) for _ in range(processes)
    ]
    ended = [process.communicate() for process in running]
    if any(process.returncode for process in running):
        raise SystemExit("\n".join(errors for _, errors in ended))
    return [json.loads(output.strip().splitlines()[-1]) for output, _ in ended]


def models(run: Path, folder: Path) -> dict[str, Path]:
    """The model in each engine that is installed."""
    from detseg.exporters import export

    found = {"torch": run}
    for engine, (ending, package) in ENGINES.items():
        if ending and find_spec(package) is not None and find_spec("onnx") is not None:
            found[engine] = export(run, ending.replace("xml", "openvino"), folder / f"{engine}.{ending}")
    return found


def print_stages(stages: dict[str, dict[str, float]]) -> None:
    """The first table: images a second and core, of each stage and engine, and of all stages."""
    table = Table(title="images/s a core (share of the time)")
    for column in ("stage", *stages):
        table.add_column(column, justify="right" if column != "stage" else "left")
    for stage in (*STAGES, "all"):
        row = []
        for each in stages.values():
            total = sum(each.values())
            own = total if stage == "all" else each[stage]
            row.append(f"{1 / own:,.0f} ({100 * own / total:.0f} %)" if own > 0 else "-")
        table.add_row(stage, *row)
    Console().print(table)


def print_growth(rates: dict[str, list[float]], processes: list[int]) -> None:
    """Images a second of all processes together, and how many times those of the first number."""
    table = Table(title=f"images/s of processes at once, {os.cpu_count()} cores")
    table.add_column("engine")
    for count in processes:
        table.add_column(str(count), justify="right")
    for engine, found in rates.items():
        table.add_row(engine, *(f"{rate:.1f} ({rate / found[0]:.2f} x)" for rate in found))
    Console().print(table)


def print_plan(stages: dict[str, dict[str, float]], kilobytes: float, options: argparse.Namespace) -> None:
    """The second table."""
    table = Table(
        title=f"machines of {options.cores} cores, {options.network:g} Gbit/s, disks of {options.disk:g} MB/s; "
        f"{kilobytes:.0f} kB an image; {options.days:g} days; {options.price:g} a core-hour"
    )
    for column in ("images", "engine", "core-hours", "cost", "machines", "MB/s of each", "used up first"):
        table.add_column(column, justify="left" if column in ("images", "engine", "used up first") else "right")
    limits = {"network": options.network * 125, "disk": options.disk}  # MB/s
    for title, count in COUNTS.items():
        for engine, each in stages.items():
            seconds = sum(each.values())
            hours = count * seconds / 3600
            # At most what the narrower of network and disk carries, however many cores there are.
            flow = options.cores / seconds * kilobytes / 1000
            narrow = min(limits, key=limits.__getitem__)
            first = narrow if flow > limits[narrow] else "cores"
            enough = options.cores * limits[narrow] / flow
            machines = hours / options.cores / (24 * options.days) * max(1.0, flow / limits[narrow])
            table.add_row(
                title,
                engine,
                f"{hours:,.0f}",
                f"{hours * options.price:,.0f}",
                f"{-(-machines // 1):,.0f}",
                f"{min(flow, limits[narrow]):,.0f}",
                f"{first} ({narrow} from {enough:,.0f} cores on)",
            )
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=None, help="of a detector")
    parser.add_argument("--images", type=Path, default=None)
    parser.add_argument("--width", type=int, default=1280, help="of drawn images, pixels; they are 4:3")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement")
    parser.add_argument("--cores", type=int, default=32, help="of a machine")
    parser.add_argument("--network", type=float, default=10, help="of a machine, Gbit/s")
    parser.add_argument("--disk", type=float, default=500, help="of a machine, MB/s; what object storage gives, say")
    parser.add_argument("--days", type=float, default=1, help="that all may take")
    parser.add_argument("--price", type=float, default=0.04, help="of a core-hour")
    parser.add_argument("--child", nargs=3, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(Path(options.child[0]), Path(options.child[1]), float(options.child[2]))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = options.images
        if images is None:
            size = options.width, options.width * 3 // 4
            images = write_flowers(folder / "drawn", train=DRAWN, val=1, size=size) / "images"
        sizes = [path.stat().st_size for path in images.iterdir()]
        stages, rates = {}, {}
        for engine, model in models(options.run or fresh_run(folder / "run"), folder).items():
            rates[engine] = []
            for count in options.processes:
                found = measure(model, images, options.seconds, count)
                rates[engine].append(sum(one["images"] / one["seconds"] for one in found))
                if engine not in stages:  # by the first number of processes
                    total = sum(one["images"] for one in found)
                    stages[engine] = {s: sum(one["stages"][s] for one in found) / total for s in STAGES}
    print_stages(stages)
    print_growth(rates, options.processes)
    print_plan(stages, sum(sizes) / len(sizes) / 1000, options)


if __name__ == "__main__":
    main()
