"""`detseg show`: sheets, plots, tables and one page of a data set."""

import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from detseg.cli import main
from detseg.data.annotations import Category
from detseg.data.statistics import count, learnt_boxes
from detseg.report.pages.data import DataPage, draw_sheet, some_images
from detseg.report.plots import data as plots
from detseg.report.tables import data as tables
from tests.data.annotation_samples import make, write_coco_dataset, write_picture
from tests.report.reading import Page
from tests.small_masks import write_small_masks
from tests.small_set import write_small_set


@pytest.fixture(scope="module")
def boxes(tmp_path_factory):
    return write_small_set(tmp_path_factory.mktemp("boxes") / "set", train=6, val=3)


def show(*words):
    return main(["show", *map(str, words)])


def test_objects(boxes, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert show(boxes) == 0
    folder = tmp_path / "runs/show-set"
    names = ["train.jpg", "val.jpg", "classes.png", "objects.png", "sizes.png", "positions.png", "aspects.png"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(["index.html", *names])
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == f"runs/show-set/index.html: the page; beside it {', '.join(names)}"
    cells = [re.findall(r"[^\s│]+", line) for line in out.splitlines() if line.startswith("│")]
    # Images, images without objects, objects, the crowd; both sides have two objects in each image but one.
    assert ["train", "6", "0", "11", "1"] == cells[0][:5] and ["val", "3", "1", "4", "0"] == cells[1][:5]
    assert ["square", "53.3", "%", "6", "2", "8"] in cells and ["bar", "46.7", "%", "5", "2", "7"] in cells
    assert show(boxes, "--images", "2", "--split", "val") == 0  # over the files of the first call
    assert cv2.imread(str(folder / "val.jpg")).shape[1] < cv2.imread(str(folder / "train.jpg")).shape[1]


def test_the_page_needs_no_other_file(boxes, tmp_path):
    assert show(boxes, "--output", tmp_path / "out") == 0
    text = (tmp_path / "out/index.html").read_text()
    page = Page(text)
    images = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 7 and all(src.startswith("data:image/") for src in images)
    assert not re.search(r'(src|href)="(?!data:)', text)
    assert ["Class", "Share", "Train", "Val", "Images"] in page.rows
    assert "detseg predict" not in text and "<title>set</title>" in text


def test_masks_and_labels(tmp_path, capsys):
    assert show(write_small_masks(tmp_path / "masked"), "--output", tmp_path / "a") == 0
    assert "Classes, pixels" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
        "classes.png",
        "index.html",
        "train.jpg",
        "val.jpg",
    ]
    for seed, name in enumerate(("rose/1", "rose/2", "daisy/3")):
        write_picture(tmp_path / f"labels/{name}.png", seed=seed)
    assert show(tmp_path / "labels", "--output", tmp_path / "b") == 0
    assert re.search(r"rose\s*│ 66.7 % │\s*2 │", capsys.readouterr().out)


def test_what_is_damaged_is_drawn_as_far_as_it_goes(boxes, tmp_path, capsys, caplog):
    folder = Path(shutil.copytree(boxes, tmp_path / "set"))
    (folder / "images/train1.png").unlink()
    (folder / "images/train2.png").write_bytes(b"none")
    text = (folder / "val.json").read_text().replace('"category_id": 7', '"category_id": 8')
    (folder / "val.json").write_text(text)
    assert show(folder, "--output", tmp_path / "out") == 0
    assert "2 images cannot be drawn and are left out, the first: " in caplog.text
    assert "2 problems were found while reading, the first: " in capsys.readouterr().out


def test_wrong_paths_and_options(boxes, tmp_path, capsys):
    (tmp_path / "none").mkdir()
    for words, message in (
        ([tmp_path / "none"], "no annotations recognised"),
        ([tmp_path / "nowhere"], "does not exist"),
        ([boxes, "--images", "0"], "--images must be at least 1"),
        ([boxes, "--split", "test"], "has no split test"),
    ):
        assert show(*words, "--output", tmp_path / "out") == 1
        assert message in capsys.readouterr().err


# ------------------------------------------------------------------ the parts


def test_images_with_polygons_crowds_and_unknown_classes_are_drawn(tmp_path):
    from detseg.data import read_annotations

    data = read_annotations(write_coco_dataset(tmp_path))
    sheet = draw_sheet(data, range(len(data)))
    assert sheet.dtype == np.uint8 and sheet.ndim == 3
    assert draw_sheet(make(paths=[str(write_picture(tmp_path / "y.png"))]), [0]).size  # no object: no legend
    unknown = make([[1, 1, 9, 9]], [-1], paths=[str(write_picture(tmp_path / "x.png"))])
    assert draw_sheet(unknown, [0]).size


def test_the_choice_of_images_is_by_seed_and_class(tmp_path):
    from detseg.data import read_labels

    for seed, name in enumerate([f"a/{i}" for i in range(9)] + ["b/9", "c/10"]):
        write_picture(tmp_path / f"{name}.png", seed=seed)
    data = read_labels(tmp_path)
    chosen = some_images(data, 4, 0)
    assert data.labels[chosen].tolist() == [0, 1, 2, 0]
    assert some_images(data, 4, 0) == chosen and some_images(data, 4, 1) != chosen
    assert len(set(some_images(data, 99, 0))) == 11


def test_the_map_of_positions_counts_boxes():
    cover = plots._cover(np.array([[0, 0, 0.5, 1], [0.25, 0.5, 1, 1], [-1, -1, 2, 2], [0.9, 0.9, 0.1, 0.1]])[:3])
    assert cover[0, 0] == pytest.approx(2 / 3) and cover[0, -1] == pytest.approx(1 / 3)
    assert cover[-1, 20] == pytest.approx(1) and cover[-1, -1] == pytest.approx(2 / 3)
    assert plots._cover(np.zeros((0, 4))).sum() == 0


def test_plots_of_nothing_and_of_many_classes():
    empty = make(sizes=np.zeros((0, 2)))
    boxes, _, sizes = learnt_boxes(empty)
    for figure in (plots.sizes_figure(boxes), plots.aspects_figure(boxes), plots.positions_figure(boxes, sizes)):
        assert figure.axes
    counts = {"train": count(empty)}
    assert plots.per_image_figure(counts).axes and plots.classes_figure(empty.names, counts, "objects").axes
    many = make([[0, 0, 1, 1]], categories=tuple(Category(k, f"class {k}") for k in range(100)))
    bars = plots.classes_figure(many.names, {"train": count(many)}, "objects").axes[0]
    assert len(bars.get_yticklabels()) == plots.MOST_CLASSES


def test_a_terminal_lists_the_largest_and_the_smallest_of_many_classes(capsys):
    from rich.console import Console

    many = make([[0, 0, 1, 1]], [7], categories=tuple(Category(k, f"class {k}") for k in range(100)))
    Console().print(tables.tables(many.names, {"train": count(many)}, "objects", {}))
    out = capsys.readouterr().out
    assert "class 7 " in out and "… 70 more" in out and "class 99" in out and "class 50" not in out


def test_cards_of_a_page(boxes):
    from detseg.data.convert import read_splits

    page = DataPage(read_splits(boxes, "objects"), "set")
    assert {name: value for name, value, _ in page._cards()} == {
        "images": "9",
        "classes": "2",
        "objects": "15",
        "objects in an image": "1.7",
        "images without objects": "1",
        "objects ignored": "1",
    }


@pytest.mark.slow
def test_packed_images_are_shown_and_not_written_anew(boxes, tmp_path, capsys):
    for data, name in ((boxes, "boxes.h5"), (write_small_masks(tmp_path / "masked"), "masks.h5")):
        assert main(["pack", "--data", str(data), "--output", str(tmp_path / name), "--size", "64"]) == 0
        assert show(tmp_path / name, "--output", tmp_path / name.removesuffix(".h5")) == 0
        assert (tmp_path / name.removesuffix(".h5") / "train.jpg").exists()
    for command in (["convert", "--to", "coco"], ["split"]):
        words = [command[0], str(tmp_path / "boxes.h5"), *command[1:], "--output", str(tmp_path / "out")]
        assert main(words) == 1
        assert "holds resized images, not their files; give the data that it was made from" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
