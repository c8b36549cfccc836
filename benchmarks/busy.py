"""Training and prediction beside other busy processes, with `detseg.sharing` and without, in turn in one process.

    python benchmarks/busy.py [--rounds 3] [--seconds 8] [--fp32] [--no-pretrained]

Steps of the default detector's training as in `benchmarks/profile_step.py`, batches of 8 at 320 px, in bfloat16
unless --fp32; and predicted images, also 8 at a time. A busy process is a loop of Python's that never sleeps. Rates are
medians over the rounds, ratios those of the two in the same round. "Alone" is only that if nothing else computes.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as the command line does

import numpy as np
import torch
from default_network import architecture
from profile_step import training_step
from rich.console import Console
from rich.table import Table

from detseg import sharing
from detseg.models import build_model
from detseg.predict import detect

SIZE, BATCH, BUSY = 320, 8, (0, 1, 2)


@contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes that compute."""
    children = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for child in children:
            child.kill()
            child.wait()


@contextmanager
def sharing_or_not(shares: bool) -> Iterator[None]:
    """With the monitor, or without: as where the system does not count."""
    waits = sharing.waits
    if not shares:
        sharing.waits = dict
    try:
        with sharing.sharing_cores():
            yield
    finally:
        sharing.waits = waits
    while sharing._monitor.thread is not None:
        time.sleep(0.01)


def predicting(pretrained: bool) -> Callable[[], None]:
    """A function that predicts a batch of images."""
    model = build_model(architecture(), pretrained=pretrained).to(memory_format=torch.channels_last)
    images = np.random.default_rng(0).integers(0, 256, (BATCH, SIZE, SIZE, 3), np.uint8)
    sized = [(image, (SIZE, SIZE)) for image in images]
    return lambda: [None for _ in detect(model, sized, SIZE, batch_size=BATCH, score_threshold=0.5)] and None


def rate(work: Callable[[], None], seconds: float) -> float:
    """How often a minute something is done."""
    started, count = time.perf_counter(), 0
    while (took := time.perf_counter() - started) < seconds:
        work()
        count += 1
    return 60 * count / took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8, help="of each measurement")
    parser.add_argument("--fp32", action="store_true", help="train in float32 in place of bfloat16 autocast")
    parser.add_argument("--no-pretrained", action="store_true", help="where the weights are not at hand")
    options = parser.parse_args()
    sharing.LINGER = 0.0
    pretrained = not options.no_pretrained
    step = training_step("tf_efficientnet_lite0", BATCH, pretrained=pretrained, bf16=not options.fp32)
    works = {"training, steps/min": (step, 1.0), "prediction, images/s": (predicting(pretrained), BATCH / 60)}
    table = Table(title=f"beside busy processes, {torch.get_num_threads()} threads on {os.cpu_count()} processors")
    for column in ("", "busy processes", "without", "with", "with / without"):
        table.add_column(column, justify="right" if column else "left")
    for name, (work, factor) in works.items():
        with sharing_or_not(True):
            for _ in range(5):
                work()
        for count in BUSY:
            rates: dict[bool, list[float]] = {False: [], True: []}
            with busy(count):
                for turn in range(options.rounds):
                    for shares in (False, True) if turn % 2 else (True, False):
                        with sharing_or_not(shares):
                            rates[shares].append(factor * rate(work, options.seconds))
            ratio = statistics.median(b / a for a, b in zip(rates[False], rates[True], strict=True))
            medians = [f"{statistics.median(rates[shares]):.1f}" for shares in (False, True)]
            table.add_row(name, str(count), *medians, f"{ratio:.2f} x")
    Console().print(table)


if __name__ == "__main__":
    main()
