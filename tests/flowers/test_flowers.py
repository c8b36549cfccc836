"""The embedded images: exact truth, the same bytes everywhere, and files others can read."""

import hashlib
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from detseg.flowers import canvas, shapes
from detseg.flowers.canvas import Stream
from detseg.flowers.dataset import SPECIES, FlowerScene, draw_scene, scene_seed, write_flowers
from tests.cases import case

# numpy's vector units chosen at run time: switched off in a child process, the pixels must stay the same.
DISABLED = " ".join(getattr(np._core._multiarray_umath, "__cpu_dispatch__", []))
REPOSITORY = Path(__file__).resolve().parents[2]

# SHA-256 over the image and its truth. When drawing is changed on purpose: print them anew with
# `python tests/data/test_flowers.py` and raise VERSION in detseg/flowers/dataset.py.
PINNED = {
    0: "5939979aa53b84cd9a10ad9d354fa665",
    1: "6eee22ad2d039bfdc1155c4e2ecdb947",
    2: "7ca3fe98d532bde917568891d0b72251",
    3: "51af8bacdc0f17ed71185c2a97d97041",
    7: "bd4a579ee7e57f4c5924ce273e2c81ac",
    11: "011a499456a578ba95b52f67984d3ca2",
}


def fingerprint(scene: FlowerScene) -> str:
    digest = hashlib.sha256()
    for array in (scene.image, scene.boxes, scene.labels, scene.masks, scene.semantic):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:32]


@pytest.fixture(scope="module")
def scenes() -> list[FlowerScene]:
    return [draw_scene(seed, (200, 160)) for seed in range(100)]


def slow_box(mask: np.ndarray) -> list[int]:
    """Tight half-open box, point by point."""
    points = [(x, y) for y in range(mask.shape[0]) for x in range(mask.shape[1]) if mask[y, x]]
    xs, ys = [x for x, _ in points], [y for _, y in points]
    return [min(xs), min(ys), max(xs) + 1, max(ys) + 1]


def test_shapes_and_types(scenes):
    for scene in scenes[:20]:
        count = len(scene.labels)
        assert scene.image.shape == (160, 200, 3) and scene.image.dtype == np.uint8
        assert scene.boxes.shape == (count, 4) and scene.boxes.dtype == np.float32
        assert scene.labels.dtype == np.int64
        assert scene.masks.shape == (count, 160, 200) and scene.masks.dtype == bool
        assert scene.semantic.shape == (160, 200) and scene.semantic.dtype == np.uint8


def test_boxes_are_tight_around_masks(scenes):
    for scene in scenes[:12]:
        for box, mask in zip(scene.boxes.tolist(), scene.masks, strict=True):
            assert box == slow_box(mask)


def test_masks_are_disjoint_and_agree_with_the_semantic_map(scenes):
    for scene in scenes:
        assert scene.masks.sum(0).max(initial=0) <= 1
        expected = np.zeros(scene.semantic.shape, np.uint8)
        for mask, label in zip(scene.masks, scene.labels, strict=True):
            expected[mask] = label + 1
        assert np.array_equal(scene.semantic, expected)


def test_nothing_tiny_is_annotated(scenes):
    for scene in scenes:
        sides = scene.boxes[:, 2:] - scene.boxes[:, :2]
        assert (sides >= 14 * 160 / 320).all()
        assert (scene.masks.sum((1, 2)) >= 0.2 * sides.prod(1)).all()


def test_masks_lie_on_flower_colours():
    """An image's heads look different from what surrounds them: the truth belongs to the image."""
    for seed in range(10):
        scene = draw_scene(seed)
        for mask in scene.masks:
            rim = cv2.dilate(mask.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
            around = rim & (scene.semantic == 0)
            if around.sum() < 30:
                continue
            inside = scene.image[mask].mean(0)
            assert np.abs(inside - scene.image[around].mean(0)).max() > 15


def test_counts_and_species_are_balanced(scenes):
    counts = [len(scene.labels) for scene in scenes]
    assert min(counts) >= 1 and max(counts) <= 12 and len(set(counts)) >= 8
    species = np.bincount(np.concatenate([scene.labels for scene in scenes]), minlength=len(SPECIES))
    assert species.min() > 0.6 * species.mean() and species.max() < 1.5 * species.mean()
    sides = np.concatenate([(scene.boxes[:, 2:] - scene.boxes[:, :2]).min(1) for scene in scenes])
    assert np.percentile(sides, 90) > 2.2 * np.percentile(sides, 10)  # many scales


def test_any_size():
    for size in [(64, 64), (333, 97), (97, 333), (640, 480)]:
        with case(size):
            scene = draw_scene(3, size)
            assert scene.image.shape == (size[1], size[0], 3)
            for box, mask in zip(scene.boxes.tolist(), scene.masks, strict=True):
                rows, columns = np.nonzero(mask)
                assert box == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_wrong_arguments():
    for seed, size, message in [(-1, (320, 320), "seed=-1"), (0, (63, 320), "64 x 64")]:
        with case(seed, size, message), pytest.raises(ValueError, match=message):
            draw_scene(seed, size)


@pytest.mark.parametrize("seed", sorted(PINNED))
def test_pinned_pixels(seed):
    assert fingerprint(draw_scene(seed)) == PINNED[seed]


@pytest.mark.slow
def test_same_bytes_in_threads_and_in_a_child_process():
    seeds = list(range(4))
    alone = [fingerprint(draw_scene(seed)) for seed in seeds]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda seed: fingerprint(draw_scene(seed)), seeds)) == alone
    environment = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "OMP_NUM_THREADS": "3",
        "NUMBA_NUM_THREADS": "1",
    }
    # numba compiles for a plain processor there: other vector widths, no fused multiply-add.
    environment |= {
        "NPY_DISABLE_CPU_FEATURES": DISABLED,
        "NUMBA_CPU_NAME": "generic",
        "NUMBA_CPU_FEATURES": "",
    }
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_flowers as t\n"
    code += f"print([t.fingerprint(t.draw_scene(seed)) for seed in {seeds}])"
    child = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert child.stdout.strip() == str(alone)


def test_normals_are_computed_without_fused_multiply_add():
    """A fused operation rounds once instead of twice and would differ from machine to machine."""
    points = Stream(5).uniforms(-1, 1, 4 * 6 * 5 * 3).reshape(4, 6, 5, 3)
    a, b = np.empty_like(points), np.empty_like(points)
    for out, axis in ((a, 1), (b, 2)):
        moved, target = np.moveaxis(points, axis, 0), np.moveaxis(out, axis, 0)
        target[0], target[-1] = moved[1] - moved[0], moved[-1] - moved[-2]
        target[1:-1] = moved[2:] - moved[:-2]
    parts = [a[..., (k + 1) % 3] * b[..., (k + 2) % 3] - a[..., (k + 2) % 3] * b[..., (k + 1) % 3] for k in range(3)]
    assert np.array_equal(shapes.grid_mesh(points, np.zeros(3)).normals, np.stack(parts, -1).reshape(-1, 3))


def test_triangles_cover_what_they_should():
    """A half-square, two overlapping depths, and colours that blend from corner to corner."""
    rgb, depth = np.zeros((8, 8, 3), np.uint8), np.full((8, 8), canvas.EMPTY, np.int32)
    xy = np.array([[0, 0], [128, 0], [0, 128], [0, 0], [128, 0], [0, 128]], np.int64)
    values = np.array([[0, 200, 0, 0, 0]] * 3 + [[5, 0, 0, 0, 0], [5, 0, 255, 0, 0], [5, 0, 0, 0, 0]], np.int64)
    canvas.fill_triangles(xy, values, np.array([[0, 1, 2]]), shapes.NEUTRAL, rgb, depth)
    expected = np.add.outer(np.arange(8), np.arange(8)) <= 7
    assert np.array_equal(depth == 0, expected) and (rgb[expected] == [200, 0, 0]).all()
    canvas.fill_triangles(xy, values, np.array([[5, 4, 3]]), shapes.NEUTRAL, rgb, depth)  # wound the other way
    assert np.array_equal(depth == 5, expected) and not rgb[~expected].any()
    assert (np.diff(rgb[0, :, 1].astype(int)) > 20).all()
    canvas.fill_triangles(xy, values, np.array([[0, 1, 2]]), shapes.NEUTRAL, rgb, depth)
    assert (depth[expected] == 5).all()  # what lies behind stays hidden


def test_blur_against_a_slow_box_filter():
    for radius in [1, 3, 20]:
        with case(radius):
            image = Stream(1).bytes(13 * 17 * 3).reshape(13, 17, 3)
            padded = np.pad(image.astype(float), ((radius, radius), (radius, radius), (0, 0)), mode="edge")
            size = 2 * radius + 1
            windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), (0, 1))
            assert np.abs(canvas.blur(image, radius, 1) - windows.mean((-2, -1))).max() <= 1.5


def test_rotation_is_orthogonal_and_tips_the_axis():
    matrix = shapes.rotation(0.1, 0.3, 0.7)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-6)
    tilt, lean = 2 * np.pi * 0.1, 2 * np.pi * 0.3
    axis = [np.sin(tilt) * np.cos(lean), np.sin(tilt) * np.sin(lean), np.cos(tilt)]
    np.testing.assert_allclose(matrix[:, 2], axis, atol=2e-3)  # the table of sines has 4096 steps


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    return write_flowers(tmp_path_factory.mktemp("flowers") / "set", train=7, val=3, size=(128, 96), seed=4)


def test_written_files_hold_the_scenes(written):
    for split, count in (("train", 7), ("val", 3)):
        content = json.loads((written / f"{split}.json").read_text())
        assert len(content["images"]) == count
        assert [category["name"] for category in content["categories"]] == list(SPECIES)
        for index, image in enumerate(content["images"]):
            scene = draw_scene(scene_seed(4, split, index), (128, 96))
            stored = cv2.imread(str(written / "images" / image["file_name"]))[..., ::-1]
            assert stored.shape == (image["height"], image["width"], 3)
            assert np.abs(stored.astype(int) - scene.image).mean() < 12  # JPEG changes a little, not the scene
            objects = [entry for entry in content["annotations"] if entry["image_id"] == image["id"]]
            assert [entry["category_id"] - 1 for entry in objects] == scene.labels.tolist()
            for entry, box, mask in zip(objects, scene.boxes.tolist(), scene.masks, strict=True):
                x, y, width, height = entry["bbox"]
                assert [x, y, x + width, y + height] == box
                assert np.array_equal(coco_mask.decode(entry["segmentation"]).astype(bool), mask)
                assert entry["area"] == mask.sum() and entry["iscrowd"] == 0
        ids = [entry["id"] for entry in content["annotations"]]
        assert min(ids) == 1 and len(set(ids)) == len(ids)


def test_train_and_val_share_no_image(written):
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (written / "images").iterdir()]
    assert len(digests) == 10 == len(set(digests))


def test_the_readers_understand_the_folder(written):
    readers = pytest.importorskip("detseg.data.formats")
    if not hasattr(readers, "read_dataset"):
        pytest.skip("the readers are not there yet")
    splits = readers.read_dataset(written)
    assert len(splits["train"]) == 7 and len(splits["val"]) == 3
    assert list(splits["train"].names) == list(SPECIES)
    assert Path(str(splits["val"].paths[0])).is_file()


def test_a_complete_set_is_left_alone_and_others_are_replaced(tmp_path):
    calls: list[tuple[int, int]] = []
    options = {
        "train": 3,
        "val": 2,
        "size": (96, 96),
        "progress": lambda done, total: calls.append((done, total)),
    }
    folder = write_flowers(tmp_path / "set", **options)
    assert calls == [(k, 5) for k in range(1, 6)]
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}
    write_flowers(folder, **options)
    assert len(calls) == 5
    assert before == {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in before}
    victim = folder / "images" / "val_000001.jpg"
    victim.unlink()  # an incomplete set is drawn again, to the same bytes
    write_flowers(folder, **options, workers=1)
    assert {path: path.read_bytes() for path in before} == {path: entry[1] for path, entry in before.items()}
    write_flowers(folder, **{**options, "train": 2})
    assert len(list((folder / "images").iterdir())) == 4


def test_a_folder_with_other_things_is_not_touched(tmp_path):
    (tmp_path / "train.json").write_text("mine")
    with pytest.raises(FileExistsError, match="new or empty folder"):
        write_flowers(tmp_path, train=1, val=1)
    assert (tmp_path / "train.json").read_text() == "mine"


def test_wrong_settings(tmp_path_factory):
    for options, message in [({"train": 0}, "train=0"), ({"val": 10**6}, "val="), ({"seed": -2}, "seed=-2")]:
        with case(options, message):
            tmp_path = tmp_path_factory.mktemp("case")
            with pytest.raises(ValueError, match=message):
                write_flowers(tmp_path / "set", **options)
            assert not (tmp_path / "set").exists()


if __name__ == "__main__":
    for number in (0, 1, 2, 3, 7, 11):
        print(f'    {number}: "{fingerprint(draw_scene(number))}",')
