"""How fast a training step could be on this machine: its arithmetic and its memory traffic, and the measured peaks.

    python benchmarks/roofline.py [--backbone tf_efficientnet_lite0] [--batch 8]

Counts the convolutions of the default detector at 320 px: forward, and twice that again where weights learn (once
where only the input's gradient is wanted). Ordinary ones are held against a matrix product of 1024 x 1024 numbers,
depthwise ones, which are no matrix products, against multiplying and adding in the processor's cache, and the maps that
convolutions, norms and activations read and write against a copy of 400 MB. The bound is the sum of the longer of
arithmetic and traffic of each convolution; the step itself is measured beside it, and the shares say what is left.
"""

import argparse
import os
import statistics
import time
from collections import Counter
from collections.abc import Callable

import torch
from default_network import architecture
from profile_step import SIZE, training_step
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from detseg.models import build_model
from detseg.train.optim import freeze_stages

ROUNDS = 9


def seconds(work: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Median time of a call, after two that are not counted."""
    times = []
    for _ in range(rounds + 2):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times[2:])


def peaks(dtype: torch.dtype) -> dict[str, float]:
    """Operations or bytes a second: of matrix products, of vectors in the cache, and of memory."""
    a, b = (torch.randn(1024, 1024).to(dtype) for _ in range(2))
    small, large, target = torch.randn(64 << 10), torch.randn(100 << 20), torch.empty(100 << 20)
    return {
        "matrix": 2 * 1024**3 / seconds(lambda: a @ b),
        "vector": 2
        * 64
        * small.numel()
        / seconds(lambda: [small.addcmul_(small, small, value=1e-9) for _ in range(64)]),
        "memory": 2 * large.numel() * 4 / seconds(lambda: target.copy_(large)),
    }


def convolutions(backbone: str, batch: int) -> list[tuple[str, float, float]]:
    """Kind ("matrix" or "vector"), operations and bytes (at 2 a number) of the step's part of each convolution."""
    model = build_model(architecture(backbone), pretrained=False)
    freeze_stages(model.backbone.stages, sum(stride <= 8 for stride in model.backbone.stage_strides))
    counted: list[tuple[str, float, float]] = []

    def count(layer: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
        assert isinstance(layer, nn.Conv2d)
        times = 3 if layer.weight.requires_grad else 1
        operations = 2 * out.numel() * layer.weight[0].numel() * times
        kind = "vector" if layer.groups > 1 else "matrix"
        counted.append((kind, operations, 2 * (given[0].numel() + out.numel()) * times))

    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(count)
    with torch.inference_mode():
        model.outputs(torch.zeros(batch, 3, SIZE, SIZE, dtype=torch.uint8))
    return counted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--no-pretrained", action="store_true", help="for backbones whose weights are not at hand")
    parser.add_argument("--fp32", action="store_true", help="float32 in place of bfloat16 autocast")
    options = parser.parse_args()
    dtype = torch.float32 if options.fp32 else torch.bfloat16
    peak = peaks(dtype)
    step = training_step(options.backbone, options.batch, pretrained=not options.no_pretrained, bf16=not options.fp32)
    measured = seconds(step)
    width = 2 if options.fp32 else 1
    bound: Counter[str] = Counter()
    work: Counter[str] = Counter()
    for kind, operations, moved in convolutions(options.backbone, options.batch):
        arithmetic, traffic = operations / peak[kind], width * moved / peak["memory"]
        bound[kind, "arithmetic" if arithmetic > traffic else "traffic"] += max(arithmetic, traffic)
        work[kind] += operations
    table = Table(
        title=f"a step of {options.backbone}, {options.batch} images of {SIZE} px, {torch.get_num_threads()} threads"
    )
    for column in ("", "GFLOP", "peak GFLOP/s", "bound by", "ms"):
        table.add_column(column, justify="right" if column else "left")
    for (kind, reason), least in sorted(bound.items()):
        name = "convolutions" if kind == "matrix" else "depthwise convolutions"
        table.add_row(name, f"{work[kind] / 1e9:.1f}", f"{peak[kind] / 1e9:.0f}", reason, f"{1e3 * least:.0f}")
    table.add_section()
    least = sum(bound.values())
    table.add_row("all convolutions at least", "", f"{peak['memory'] / 1e9:.0f} GB/s", "", f"{1e3 * least:.0f}")
    table.add_row("the step, measured", "", f"{os.cpu_count()} cores", "", f"{1e3 * measured:.0f}")
    console = Console()
    console.print(table)
    console.print(
        f"at most {options.batch / least:.0f} images/s if nothing but convolutions took time; "
        f"measured {options.batch / measured:.1f} images/s"
    )


if __name__ == "__main__":
    main()
