"""Non-max suppression: detseg against torchvision and whatever else of its kind is installed.

    python benchmarks/nms.py [--rounds 21] [--threads 1] [--peers torchvision lsnms]

Clustered scenes (about 30 jittered boxes to an object) on a 640-px image, without labels and with 80; sparse ones on
canvases of 8 000 and 25 000 px. Installed peers take part by themselves: lsnms, powerboxes, ensemble-boxes. All take
turns inside every round, so that a machine that slows down slows all. A turn is a call that is not timed, which brings
a library's code and data back into the caches, and three that are; its time is their median (one call where all
together take longer than half a second). A ratio is the median over the rounds of the peer's time over detseg's.
Scores are distinct and the indices are compared with detseg's before timing: "differs" stands for a peer that keeps
other boxes, "–" for one that is not installed, or was left out because one call would take longer than --patience
seconds, judged by the case before and a time that grows with the square.
"""

import importlib
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torchvision
import tyro
from rich.console import Console
from rich.progress import track
from rich.table import Table

from detseg.detect import batched_nms, nms

Call = Callable[[], Any]

PEERS = ("torchvision", "lsnms", "powerboxes", "powerboxes rtree", "ensemble-boxes")


@dataclass(frozen=True)
class Settings:
    """What to measure."""

    clustered: tuple[int, ...] = (300, 1_000, 5_000, 10_000, 30_000)
    """Numbers of boxes on a 640-px image."""
    sparse: tuple[int, ...] = (100_000, 1_000_000)
    """Numbers of boxes on large canvases, all at the same density."""
    labels: int = 80
    """Classes for batched_nms."""
    iou_threshold: float = 0.5
    rounds: int = 21
    """Fewer for slow calls: a case gets about 10 seconds."""
    threads: int = 1
    """Threads that torch may use."""
    peers: tuple[str, ...] = PEERS
    patience: float = 60.0
    """Leave a peer out of a case when it needs longer than this, in seconds."""


@dataclass(frozen=True)
class Scene:
    """Boxes (N, 4), distinct scores (N,) and labels (N,), as tensors."""

    boxes: torch.Tensor
    scores: torch.Tensor
    labels: torch.Tensor


def clustered(count: int, labels: int) -> Scene:
    """About 30 boxes to each object, on 640 px."""
    g = torch.Generator().manual_seed(count)
    objects = max(1, count // 30)
    which = torch.randint(objects, (count,), generator=g)
    centre = (torch.rand(objects, 2, generator=g) * 600)[which]
    size = (torch.rand(objects, 2, generator=g) * 90 + 16)[which]
    centre = centre + torch.randn(count, 2, generator=g) * 0.1 * size
    size = size * torch.exp(torch.randn(count, 2, generator=g) * 0.1)
    return _scene(centre, size, labels, g)


def sparse(count: int, labels: int) -> Scene:
    """Boxes of 10 to 60 px anywhere; 100 000 to a canvas of 8 000 px, and as dense for other numbers."""
    g = torch.Generator().manual_seed(count)
    centre = torch.rand(count, 2, generator=g) * 8000 * (count / 100_000) ** 0.5
    return _scene(centre, torch.rand(count, 2, generator=g) * 50 + 10, labels, g)


def _scene(centre: torch.Tensor, size: torch.Tensor, labels: int, g: torch.Generator) -> Scene:
    count = len(centre)
    scores = (torch.randperm(count, generator=g) + 1).float() / (count + 1)
    boxes = torch.cat([centre - size / 2, centre + size / 2], dim=1)
    return Scene(boxes, scores, torch.randint(labels, (count,), generator=g))


def contenders(scene: Scene, threshold: float, *, with_labels: bool) -> dict[str, Call]:
    """Calls that return kept indices (ensemble-boxes: kept boxes); detseg first."""
    boxes, scores, labels = scene.boxes, scene.scores, scene.labels
    if with_labels:
        calls: dict[str, Call] = {
            "detseg": lambda: batched_nms(boxes, scores, labels, threshold),
            "torchvision": lambda: torchvision.ops.batched_nms(boxes, scores, labels, threshold),
        }
    else:
        calls = {
            "detseg": lambda: nms(boxes, scores, threshold),
            "torchvision": lambda: torchvision.ops.nms(boxes, scores, threshold),
        }
    wide, double = boxes.double().numpy(), scores.double().numpy()
    lsnms = _module("lsnms")
    if lsnms:
        classes = labels.numpy() if with_labels else None
        calls["lsnms"] = lambda: lsnms.nms(
            wide, double, iou_threshold=threshold, score_threshold=0.0, class_ids=classes
        )
    powerboxes = _module("powerboxes")
    if powerboxes and not with_labels:
        calls["powerboxes"] = lambda: powerboxes.nms(wide, double, threshold, 0.0)
        calls["powerboxes rtree"] = lambda: powerboxes.rtree_nms(wide, double, threshold, 0.0)
    ensemble = _module("ensemble_boxes")
    if ensemble:
        low, high = wide.min(), wide.max()
        relative, kinds = (wide - low) / (high - low), labels.numpy() if with_labels else np.zeros(len(wide), int)
        calls["ensemble-boxes"] = lambda: ensemble.nms([relative], [double], [kinds], iou_thr=threshold)[1]
    return calls


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def race(calls: dict[str, Call], scores: torch.Tensor, rounds: int) -> dict[str, tuple[str, list[float]]]:
    """For each call a remark ("" or "differs") and its seconds, one a round."""
    expected = np.sort(scores[calls["detseg"]()].numpy().astype(np.float64))
    results: dict[str, tuple[str, list[float]]] = {}
    together = 0.0
    for name, call in calls.items():
        found = np.asarray(call())  # compiles
        started = time.perf_counter()
        call()
        together += time.perf_counter() - started
        kept = found if name == "ensemble-boxes" else scores.numpy()[found]
        same = len(kept) == len(expected) and np.allclose(np.sort(kept), expected, rtol=0, atol=1e-7)
        results[name] = ("" if same else "differs", [])
    warm, timed = (1, 3) if together < 0.5 else (0, 1)
    for _ in range(max(3, min(rounds, int(10 / ((warm + timed) * together))))):
        for name, (_, times) in results.items():
            seconds = [_seconds(calls[name]) for _ in range(warm + timed)]
            times.append(statistics.median(seconds[warm:]))
    return results


def _seconds(call: Call) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def main(settings: Settings) -> None:
    torch.set_num_threads(settings.threads)
    cases = [
        *(("clustered", clustered, n, False) for n in settings.clustered),
        *((f"clustered, {settings.labels} labels", clustered, n, True) for n in settings.clustered),
        *(("sparse", sparse, n, False) for n in settings.sparse),
    ]
    table = Table(
        title=f"times slower than detseg, IoU threshold {settings.iou_threshold}, {settings.threads} thread(s)"
    )
    for name in ("scene", "boxes", "kept", "detseg ms", "ns a box", *PEERS):
        table.add_column(name, justify="left" if name == "scene" else "right")
    slowest: dict[str, tuple[int, float]] = {}  # boxes and seconds of the case before
    for kind, make, count, with_labels in track(cases, "racing", transient=True):
        scene = make(count, settings.labels)
        calls = contenders(scene, settings.iou_threshold, with_labels=with_labels)
        calls = {name: call for name, call in calls.items() if name in ("detseg", *settings.peers)}
        for name, (before, seconds) in slowest.items():
            if name in calls and seconds * max(1.0, count / before) ** 2 > settings.patience:
                del calls[name]
        kept = len(calls["detseg"]())
        results = race(calls, scene.scores, settings.rounds)
        own = results["detseg"][1]
        slowest |= {name: (count, statistics.median(times)) for name, (_, times) in results.items() if name != "detseg"}
        row = [kind, f"{count:,}", f"{kept:,}", f"{1e3 * statistics.median(own):.3g}"]
        row.append(f"{1e9 * statistics.median(own) / count:.0f}")
        for name in PEERS:
            remark, times = results.get(name, ("–", []))
            ratio = f"{statistics.median(t / o for t, o in zip(times, own, strict=False)):.1f}" if times else ""
            row.append(f"{ratio} {remark}".strip())
        table.add_row(*row)
    Console().print(table)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
