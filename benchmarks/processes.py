"""Time of a training step and its parts by 1, 2 and 4 processes, and how images a second grow with them.

    python benchmarks/processes.py [--processes 1 2 4] [--batch 8] [--size 320] [--steps 30] [--threads 1] [--whole]

The default detector from random weights on drawn flowers, with augmentation and loading as in training. Each process
has a batch of its own (weak scaling) or, with --whole, its share of one (strong scaling). `exchange` is how much longer
the backward pass takes where gradients are exchanged than where not, steps of both kinds in turn; it holds the wait for
the slowest. Losses too exchange the numbers that they are divided by: that is in `forward`. Medians of the first
process. More processes than cores say nothing of machines with more; nor do figures while others compute.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from rich.console import Console
from rich.table import Table

from detseg.flowers.dataset import write_flowers

PARTS = ("data", "forward", "backward", "exchange", "optimizer")
WARM = 6


class Clock:
    """Seconds of the parts of steps; work that a device does by itself is waited for."""

    def __init__(self, device) -> None:
        import torch

        self.wait = getattr(torch.get_device_module(device), "synchronize", lambda: None)
        self.spent: dict[str, list[float]] = defaultdict(list)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time a block."""
        started = time.perf_counter()
        yield
        self.wait()
        self.spent[name].append(time.perf_counter() - started)

    def median(self, name: str) -> float:
        """Milliseconds, of what comes after the warm-up."""
        return 1000 * statistics.median(self.spent[name][WARM:])


def child(options: argparse.Namespace) -> None:
    """What each process does; the first prints its medians."""
    import torch
    from default_network import architecture

    from detseg.data.dataset import DetectionDataset, collate
    from detseg.data.formats import read_annotations
    from detseg.models import build_model
    from detseg.together import training_together
    from detseg.train.devices import accelerator_on
    from detseg.train.memory import keep_freed_memory
    from detseg.train.optim import create_optimizer, parameter_groups
    from detseg.train.sampler import Batches, SizeSchedule, TrainingSamples

    torch.set_num_threads(options.threads)
    keep_freed_memory()
    accelerator = accelerator_on("auto")
    world, batch = int(accelerator.num_processes), options.batch
    if options.whole:
        batch //= world
    samples = TrainingSamples(DetectionDataset(read_annotations(options.child / "train.json"), options.size), 0)
    batches = Batches(samples, collate, SizeSchedule(options.size, options.size), batch)
    torch.manual_seed(0)
    model = build_model(architecture(folded=False))
    model.to(device=accelerator.device, memory_format=torch.channels_last)
    optimizer = create_optimizer("adamw", parameter_groups(model, lr=1e-3, weight_decay=0.01))
    model, optimizer = accelerator.prepare(model, optimizer)
    model.train()
    stream = batches.stream(accelerator, 0, lambda step: 0.0)
    clock = Clock(accelerator.device)
    for step in range(2 * (options.steps + WARM)):
        alone = step % 2 == 1  # gradients stay where they are
        with clock.part("step alone" if alone else "step"):
            with clock.part("data"):
                images, targets, _ = next(stream)
            with accelerator.no_sync(model) if alone else nullcontext():
                with clock.part("forward"), training_together(world):
                    loss = torch.stack(list(model(images, targets).values())).sum()
                with clock.part("backward" if alone else "backward and exchange"):
                    accelerator.backward(loss)
            with clock.part("nothing" if alone else "optimizer"):
                accelerator.clip_grad_norm_(model.parameters(), 10.0)
                if not alone:
                    optimizer.step()
                optimizer.zero_grad()
    found = {name: clock.median(name) for name in ("step", "data", "forward", "backward", "optimizer")}
    found["exchange"] = max(0.0, clock.median("backward and exchange") - found["backward"]) if world > 1 else 0.0
    if accelerator.is_main_process:
        print(json.dumps(found | {"images": batch * world}))
    accelerator.end_training()


def measure(world: int, data: Path, words: list[str]) -> dict[str, float]:
    """Milliseconds of each part with so many processes."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [*launch, __file__, *words, "--child", str(data)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--batch", type=int, default=8, help="images a step of each process, or with --whole of all")
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--whole", action="store_true", help="processes share one batch")
    parser.add_argument("--child", type=Path, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        child(options)
        return
    table = Table(title=f"milliseconds of a training step at {options.size} px, {os.cpu_count()} cores")
    table.add_column("processes")
    rows: dict[str, list[str]] = {name: [] for name in ("images", "step", *PARTS, "images/s", "growth")}
    with tempfile.TemporaryDirectory() as name:
        data = write_flowers(Path(name) / "flowers", train=64, val=1)
        first = 0.0
        for world in options.processes:
            found = measure(world, data, sys.argv[1:])
            rate = 1000 * found["images"] / found["step"]
            first = first or rate
            table.add_column(str(world), justify="right")
            numbers = {"images": f"{found['images']:.0f}", "images/s": f"{rate:.1f}", "growth": f"{rate / first:.2f} x"}
            for title, row in rows.items():
                row.append(numbers.get(title) or f"{found[title]:.1f}")
    for title, row in rows.items():
        table.add_row(title, *row)
    Console().print(table)


if __name__ == "__main__":
    main()
