"""Which number format and memory layout trains a model fastest here: measured, not guessed.

bfloat16 halves the time of dense convolutions on some CPUs and doubles that of depthwise ones' backward pass;
channels_last helps most networks and crashes a few. So a few real steps are timed in a child process: a crash
there costs nothing but that candidate.

    python -m detseg.train.precision < spec.json      # one JSON line for each candidate
"""

import json
import logging
import statistics
import subprocess
import sys
import time
from functools import partial
from typing import Any, Literal, NamedTuple

import torch

logger = logging.getLogger(__name__)

Precision = Literal["bf16", "fp32"]


class Choice(NamedTuple):
    """A number format and whether convolutions see NHWC memory."""

    precision: Precision
    channels_last: bool

    @property
    def memory_format(self) -> torch.memory_format:
        """Torch's name of the layout."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def __str__(self) -> str:
        name = "bfloat16 autocast" if self.precision == "bf16" else "float32"
        return f"{name}, {'channels_last' if self.channels_last else 'contiguous'}"


CANDIDATES = tuple(Choice(p, c) for c in (True, False) for p in ("fp32", "bf16"))
# The rest are tried only where these fail: contiguous memory is seldom faster, and each trial delays the start.
PREFERRED = CANDIDATES[:2]
# A candidate that takes so many times as long as another on two tiny images is not timed on large ones: where a
# processor has no instructions for bfloat16, a few steps would cost minutes. Its time is reckoned from the tiny ones.
HOPELESS = 4


class _OnlyHereError(Exception):
    """A model that this process has built cannot be built in a child."""


def measure(spec: dict[str, Any], candidates: tuple[Choice, ...] = PREFERRED) -> dict[Choice, float]:
    """Median seconds of a training step for each candidate that ran to its end with a finite loss.

    Args:
        spec: "architecture" as in `model.json`, "freeze" stages, "norms_rest" (the backbone's keep their
            statistics), "size", "batch_size" and "device".
        candidates: what to try.

    Raises:
        _OnlyHereError: the backbone is registered by code that a child does not run.
    """
    times: dict[Choice, float] = {}
    left = list(candidates)
    while left:
        request = json.dumps({**spec, "candidates": left, "threads": torch.get_num_threads()})
        child = subprocess.run(
            [sys.executable, "-m", "detseg.train.precision"],
            input=request,
            capture_output=True,
            text=True,
            check=False,
        )
        results = [json.loads(line) for line in child.stdout.splitlines() if line.startswith("{")]
        if results and "unknown" in results[0]:
            raise _OnlyHereError(results[0]["unknown"])
        for choice, result in zip(left, results, strict=False):
            if result["seconds"] is not None:
                times[choice] = result["seconds"]
        if len(results) < len(left):
            detail = child.stderr.strip().splitlines()[-1:] or [f"exit code {child.returncode}"]
            logger.warning("%s does not work with this network here (%s)", left[len(results)], detail[0])
        left = left[len(results) + 1 :]
    return times


def choose(spec: dict[str, Any], precision: Literal["auto", "bf16", "fp32"]) -> tuple[Choice, dict[Choice, float]]:
    """The fastest candidate of the wanted precision, and what was measured.

    Nothing can be measured of a backbone that the user's own code has registered; float32 is taken then, unless another
    precision is wanted.

    Raises:
        ValueError: none of them works.
    """
    wanted = [c for c in PREFERRED if precision in ("auto", c.precision)]
    try:
        times = measure(spec, tuple(wanted))
    except _OnlyHereError:
        return wanted[0], {}
    if not times:
        times = measure(spec, tuple(c for c in CANDIDATES if c not in wanted and precision in ("auto", c.precision)))
    if not times:
        raise ValueError(
            f"{spec['architecture'].get('backbone')} cannot be trained with --precision {precision} on this machine; "
            "try another backbone or precision"
        )
    return min(times, key=lambda choice: times[choice]), times


def _run(spec: dict[str, Any]) -> None:
    """Time every candidate of a spec and print a line of JSON for each."""
    from detseg.models import build_model
    from detseg.train.memory import keep_freed_memory
    from detseg.train.optim import freeze_stages, norms, train_mode

    keep_freed_memory()
    torch.set_num_threads(spec["threads"])
    torch.manual_seed(0)
    device = torch.device(spec["device"])
    try:
        model = build_model(spec["architecture"]).to(device)
    except ValueError as error:  # the parent has built it, with what its own code has registered
        print(json.dumps({"unknown": str(error)}), flush=True)
        return
    frozen = freeze_stages(model.backbone.stages, spec["freeze"])
    train_mode(model, [*frozen, *norms(model.backbone)] if spec["norms_rest"] else frozen)
    best = small_best = float("inf")
    for precision, channels_last in spec["candidates"]:
        model.to(memory_format=Choice(precision, channels_last).memory_format)
        step = partial(_step, model, device, precision == "bf16")
        small = min(step(2, 64)[0] for _ in range(2))
        if small > HOPELESS * small_best:
            seconds, finite = best * small / small_best, True
        else:
            results = [step(spec["batch_size"], spec["size"]) for _ in range(4)]
            seconds = statistics.median(seconds for seconds, _ in results[1:])
            finite = all(finite for _, finite in results)
        if finite:
            best, small_best = min(best, seconds), min(small_best, small)
        print(json.dumps({"seconds": seconds if finite else None}), flush=True)


def _step(model: Any, device: torch.device, bf16: bool, count: int, size: int) -> tuple[float, bool]:
    """Seconds of a training step of so many images, and whether its loss was finite."""
    shape = count, size, size, len(model.mean)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, device=device).permute(0, 3, 1, 2)
    targets = model.example_targets(count, size, device)
    started = time.perf_counter()
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        loss = torch.stack(list(model(images, targets).values())).sum()
    loss.backward()
    model.zero_grad()
    finite = bool(loss.isfinite())  # waits for the device
    return time.perf_counter() - started, finite


if __name__ == "__main__":
    _run(json.loads(sys.stdin.read()))
