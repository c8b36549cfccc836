"""WebDataset shards as a data set: what tools write in them, mistakes, the index, and the way there and back."""

import json
import random
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import fields, replace

import fsspec
import numpy as np
import pytest

from detseg.cli import main
from detseg.data import read_annotations, read_dataset, validate
from detseg.data.annotations import AnnotationError
from detseg.data.cache import ImageCache, MaskCache, ResizedImages, ResizedMasks, images_of, masks_of
from detseg.data.formats import (
    NotRecognisedError,
    find_mask_sources,
    read_coco,
    read_labels,
    webdataset,
    webdataset_write,
    write_dataset,
)
from detseg.data.images import read_image
from detseg.data.masks import SemanticMasks
from detseg.data.shard_cache import TOGETHER, ShardCache
from detseg.models import load_model
from detseg.reading import FileError
from detseg.train.fingerprint import image_marks
from tests.data.annotation_samples import CATEGORIES, coco_content, write_picture
from tests.data.test_tar_shards import shard
from tests.small_set import write_small_set
from tests.train.runs import differences, state_of, untimed

BOX, CORNERS = [10, 5, 20, 30], [10, 5, 30, 35]


@pytest.fixture
def picture(tmp_path):
    return write_picture(tmp_path / "from" / "a.jpg", 64, 48).read_bytes()


@pytest.fixture
def put(tmp_path, picture):
    """Writes shards by name, each of (key, JSON content, extension) samples; gives the folder."""

    def write(beside=None, **shards):
        folder = tmp_path / "set"
        folder.mkdir(exist_ok=True)
        for name, samples in shards.items():
            files = []
            for key, content in samples:
                files.append((f"{key}.jpg", picture))
                text = content if isinstance(content, bytes | None) else json.dumps(content).encode()
                files += [(f"{key}.json", text)] if text is not None else []
            (folder / f"{name}.tar").write_bytes(shard(*files))
        for name, text in (beside or {}).items():
            (folder / name).write_text(text)
        return folder

    return write


def coco_set(folder):
    content = coco_content()
    for image in content["images"]:
        write_picture(folder / image["file_name"], image["width"], image["height"], image["id"])
    (folder / "train.json").write_text(json.dumps(content))
    return read_coco(folder / "train.json")


def same(a, b, *, paths=False):
    """Whether two sets are equal but for where they lie."""
    for field in fields(a):
        mine, theirs = getattr(a, field.name), getattr(b, field.name)
        if field.name in ("source", "label_files", "read_problems", *([] if paths else ["paths"])):
            continue
        if field.name == "segments":
            pairs = zip(mine.arrays if mine else (), theirs.arrays if theirs else (), strict=True)
            assert all(np.array_equal(x, y) for x, y in pairs)
        else:
            assert np.array_equal(mine, theirs) if isinstance(mine, np.ndarray) else mine == theirs, field.name
    return True


# ------------------------------------------------------------------ there and back


def test_all_that_coco_holds_comes_back_with_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(webdataset_write, "PER_SHARD", 3)
    given = coco_set(tmp_path / "from")
    write_dataset(given, tmp_path / "to", to="webdataset")
    assert sorted(p.name for p in (tmp_path / "to").iterdir()) == [
        *("categories.json", "train-000000.tar", "train-000001.tar"),
    ]
    for _ in range(2):  # from the shards, and from their index
        read = read_annotations(tmp_path / "to")
        assert same(given, read) and validate(read) == validate(given) == []
    assert (given.image_ids.tolist(), read.paths[2].endswith("/empty.jpg")) == ([5, 0, 9, 3], True)
    for file, path in zip(given.paths, read.paths, strict=True):
        np.testing.assert_array_equal(read_image(file), read_image(path))
    assert main(["convert", str(tmp_path / "to"), "--to", "coco", "--output", str(tmp_path / "back")]) == 0
    back = read_coco(tmp_path / "back" / "train.json")
    assert same(given, back)
    assert [p.read_bytes() for p in sorted((tmp_path / "back/images/train").iterdir())] == [
        p.read_bytes() for p in sorted((tmp_path / "from").glob("*.jpg"))
    ]


def test_shards_are_the_same_whenever_they_are_written(tmp_path):
    given = coco_set(tmp_path / "from")
    for name in ("a", "b"):
        write_dataset(given, tmp_path / name, to="webdataset")
    first, second = ((tmp_path / name / "train-000000.tar").read_bytes() for name in ("a", "b"))
    assert first == second


def test_names_with_points_stay_different(tmp_path):
    given = coco_set(tmp_path / "from")
    names = ["x.1.jpg", "x_1.jpg", "x.1.2.jpg", ".x.jpg"]
    for name, path in zip(names, given.paths, strict=True):
        (tmp_path / "from" / name).write_bytes((tmp_path / "from" / path).read_bytes())
    given = replace(given, paths=np.array([str(tmp_path / "from" / name) for name in names]))
    write_dataset(given, tmp_path / "to", to="webdataset")
    read = read_annotations(tmp_path / "to")
    assert [path.rpartition("/")[2] for path in read.paths] == ["x_1.jpg", "x_1_.jpg", "x_1_2.jpg", "_x.jpg"]
    with pytest.raises(ValueError, match=r"a\.data: its ending is none of an image"):
        write_dataset(replace(given, paths=np.array(["a.data"] * 4)), tmp_path / "no", to="webdataset")


# ------------------------------------------------------------------ what others write

NAMED = ["bar", "dog"]


@pytest.mark.parametrize(
    "content",
    [
        {"annotations": [{"bbox": BOX, "category": "dog"}, {"bbox": BOX, "category": "bar"}]},
        {"annotations": [{"bbox": BOX, "label": "dog"}, {"bbox": BOX, "label": "bar"}]},
        {"annotations": [{"bbox": BOX, "category": {"id": 5, "name": "dog"}}, {"bbox": BOX, "class": "bar"}]},
        {"annotations": [{"bbox": BOX, "category_id": "dog"}, {"bbox": BOX, "category_name": "bar"}]},
        [{"bbox": BOX, "label": "dog"}, {"bbox": BOX, "label": "bar"}],
        {"objects": {"bbox": [BOX, BOX], "categories": ["dog", "bar"], "note": "x"}},
        {"objects": [{"bbox": BOX, "category": "dog"}, {"bbox": BOX, "category": "bar"}]},
        [{"bbox": CORNERS, "bbox_mode": 0, "label": "dog"}, {"bbox": BOX, "bbox_mode": 1, "label": "bar"}],
        {
            "images": [{"id": 3}],
            "categories": [{"id": 8, "name": "bar"}, {"id": 9, "name": "dog"}],
            "annotations": [{"bbox": BOX, "category_id": 9}, {"bbox": BOX, "category_id": 8}],
        },
    ],
)  # fmt: skip
def test_common_ways_to_say_the_same(put, content):
    data = read_annotations(put(x=[("a", content)]))
    assert data.names == tuple(NAMED) and data.labels.tolist() == [1, 0]
    assert data.boxes.tolist() == [CORNERS, CORNERS] and data.sizes.tolist() == [[64, 48]]
    assert [p for p in validate(data) if p.severity == "error"] == []


@pytest.mark.parametrize(
    ("beside", "ids"),
    [
        ({"categories.json": json.dumps(CATEGORIES)}, [7, 0, 90]),
        ({"categories.json": json.dumps({"categories": CATEGORIES, "images": []})}, [7, 0, 90]),
        ({"categories.json": '["rose", "daisy", "water lily"]'}, [0, 1, 2]),
        ({"classes.txt": "\ufeffrose\r\ndaisy\n\nwater lily\n"}, [0, 1, 2]),
    ],
)
def test_classes_beside_the_shards(put, beside, ids):
    objects = [{"bbox": BOX, "category_id": ids[2]}, {"bbox": BOX, "category": "daisy"}]
    data = read_annotations(put(beside, x=[("a", objects)]))
    assert [category.id for category in data.categories] == ids
    assert data.names == ("rose", "daisy", "water lily") and data.labels.tolist() == [2, 1]


def test_splits_have_the_classes_of_both(put):
    folder = put(
        **{"train-0": [("a", [{"bbox": BOX, "label": "dog"}])], "train-1": [("b", [])]},
        **{"val-0": [("a", [{"bbox": BOX, "label": "ant"}])]},
    )
    data = read_dataset(folder)
    assert {name: len(split) for name, split in data.items()} == {"train": 2, "val": 1}
    assert data["train"].names == data["val"].names == ("ant", "dog")
    assert len(read_annotations(folder / "train-{0..1}.tar")) == 2
    assert len(read_annotations(folder / "train-1.tar")) == 1
    assert set(read_dataset(f"{folder}/{{train,val}}-0.tar")) == {"train", "val"}
    assert set(find_mask_sources(f"{folder}/{{train,val}}-0.tar")) == {"train", "val"}
    with pytest.raises(NotRecognisedError):
        read_labels(f"{folder}/{{train,val}}-0.tar")
    (folder / "list.txt").write_text("train-0.tar\nval-0.tar\n")
    assert set(read_dataset(folder / "list.txt")) == {"train", "val"}
    for split in ("train", "val"):
        (folder / split).mkdir()
        (folder / f"{split}-0.tar").rename(folder / split / "000.tar")
    (folder / "train-1.tar").unlink()
    assert set(read_dataset(folder)) == {"train", "val"}


def test_ids_of_images_and_sizes_are_those_that_are_given(put):
    content = {"image_id": "img-7", "width": 64, "height": 48, "annotations": []}
    data = read_annotations(put({"classes.txt": "x"}, x=[("a", content), ("b", content | {"image_id": 4})]))
    assert data.image_texts.written(data.image_ids.tolist()) == ["img-7", 4]
    data = read_annotations(put(y=[("a", content | {"width": 50}), ("b", [])], x=[("c", [])]))
    assert data.image_ids.tolist() == [1, 2, 3]
    assert [p.kind for p in validate(data) if p.severity == "error"] == ["size-differs"]


@pytest.mark.parametrize(
    ("beside", "classes", "names", "labels"),
    [
        (None, ["7", "3\n", "7"], ("3", "7"), [1, 0, 1]),
        (None, ["dog", "ant", "dog"], ("ant", "dog"), [1, 0, 1]),
        ("ant\nbee\ndog", ["2", "0", "dog"], ("ant", "bee", "dog"), [2, 0, 2]),
        ("ant\nbee", ["2", "0", "cat"], ("ant", "bee"), [-1, 0, -1]),
        ("ant\nbee", ["1", None, "0"], ("ant", "bee"), [1, -1, 0]),
    ],
)
def test_images_with_a_class_each(tmp_path, picture, beside, classes, names, labels):
    """As ImageNet is packed, JSON of something else beside."""
    files = []
    for row, text in enumerate(classes):
        files += [(f"{row}.jpg", picture[:-2] + bytes([row]) * 9 + picture[-2:]), (f"{row}.json", b'{"author": "x"}')]
        files += [] if text is None else [(f"{row}.cls", text.encode())]
    (tmp_path / "x.tar").write_bytes(shard(*files))
    if beside:
        (tmp_path / "classes.txt").write_text(beside)
    data = read_labels(tmp_path)
    assert (data.names, data.labels.tolist()) == (names, labels)
    assert len([p for p in validate(data) if p.severity == "error"]) == labels.count(-1)
    with pytest.raises(NotRecognisedError):
        read_annotations(tmp_path)


# ------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", r"x\.tar: a\.json: line 1"),
        (b"\xff\xfe\xfd", r"x\.tar: a\.json"),
        (b"[" * 9000, r"x\.tar: a\.json"),
        ({"caption": "a dog"}, r'x\.tar: a\.json: has no list "annotations"'),
        (7, r'x\.tar: a\.json: has no list "annotations"'),
        ({"objects": {"bbox": [BOX], "label": []}}, r"x\.tar: a\.json: the lists of objects have different lengths"),
        ([{"bbox": BOX, "category_id": 3}], "category ids without names; put categories.json"),
        ({"annotations": [], "categories": [{"id": 1}]}, "name"),
        ({"annotations": [], "categories": 3}, r"x\.tar: a\.json: .*list the classes as"),
    ],
)
def test_mistakes_in_the_json_name_shard_and_sample(put, content, message):
    with pytest.raises(FileError, match=message):
        read_annotations(put(x=[("b", [{"bbox": BOX, "label": "dog"}]), ("a", content)][content != 7 :]))


@pytest.mark.parametrize(
    ("item", "kind"),
    [
        ("text", "malformed-object"),
        ({"bbox": BOX}, "malformed-object"),
        ({"bbox": [1, 2], "label": "dog"}, "malformed-object"),
        ({"bbox": ["a", 1, 2, 3], "bbox_mode": 0, "label": "dog"}, "malformed-object"),
        ({"bbox": [float("nan"), 1, 2, 3], "label": "dog"}, "malformed-object"),
        ({"bbox": BOX, "category_id": "cat"}, "unknown-category"),
        ({"bbox": BOX, "label": "dog", "segmentation": {"size": [1, 2], "counts": [9]}}, "malformed-outline"),
    ],
)
def test_odd_objects_are_problems_of_their_image(put, item, kind):
    data = read_annotations(put({"classes.txt": "dog"}, x=[("b", [{"bbox": BOX, "label": "dog"}]), ("a", [item])]))
    problems = validate(data)
    assert kind in {problem.kind for problem in problems}
    assert all(problem.image == data.paths[1] for problem in problems if problem.kind == kind)
    assert len(data) == 2


def test_damaged_images_and_missing_annotations_are_problems(put, picture, tmp_path):
    folder = put({"classes.txt": "dog"}, x=[("a", [])])
    files = [("a.jpg", picture[:500]), ("a.json", b"[]"), ("b.jpg", picture), ("c.json", b"[]")]
    (folder / "x.tar").write_bytes(shard(*files))
    data = read_annotations(folder)
    assert [(p.kind, p.severity, p.image_index) for p in validate(data) if p.image] == [
        ("damaged-image", "error", 0),
        ("no-annotations", "warning", 1),
    ]
    assert [path[-6:] for path in data.paths] == ["/a.jpg", "/b.jpg"]
    (folder / "x.tar").write_bytes(shard(*files, ("d.jpg", picture), ("d.png", picture)))
    with pytest.raises(FileError, match=r"x\.tar: d: has several images, \.jpg and \.png"):
        read_annotations(folder)
    (folder / "x.tar").write_bytes((folder / "x.tar").read_bytes()[:3000])
    with pytest.raises(FileError, match=r"x\.tar"):
        read_annotations(folder)


def test_tars_of_something_else_are_not_recognised(tmp_path, picture):
    (tmp_path / "x.tar").write_bytes(shard(("images/a.jpg", picture), ("labels/a.txt", b"0 1 1 1 1")))
    for path in (tmp_path, tmp_path / "x.tar"):
        with pytest.raises(NotRecognisedError, match=r"Unpack x\.tar first"):
            read_annotations(path)
    with pytest.raises(AnnotationError, match="does not exist"):
        read_annotations(tmp_path / "none.tar")
    with pytest.raises(AnnotationError, match=r"none-0\.tar: cannot be read: No such file"):
        read_annotations(tmp_path / "none-{0..3}.tar")
    with pytest.raises(AnnotationError, match="there are no shards"):
        read_annotations(tmp_path / "none-*.tar")


def test_of_a_written_set_the_damaged_shard_is_named_and_not_its_classes(tmp_path):
    data = read_annotations(write_small_set(tmp_path / "coco", train=3, val=2), "train")
    write_dataset(data, tmp_path / "shards", to="webdataset")
    path = next((tmp_path / "shards").rglob("train*.tar"))
    path.write_bytes(b"\xff" * 700 + path.read_bytes()[700:])
    with pytest.raises(FileError, match=path.name):
        read_dataset(tmp_path / "shards")
    with tarfile.open(path, "w") as empty:
        empty.addfile(tarfile.TarInfo("a.txt"))
    with pytest.raises(FileError, match=rf"{path.name}: none of its first samples is an image with annotations"):
        read_dataset(tmp_path / "shards")


def test_any_damage_is_an_error_that_names_the_shard_or_a_problem(put):
    content = {"annotations": [{"bbox": BOX, "category_id": 1, "segmentation": [[1, 2, 30, 4, 5, 30]], "area": 9}]}
    folder = put({"classes.txt": "a\nb"}, x=[("a", content), ("b", content)])
    good, rng = (folder / "x.tar").read_bytes(), random.Random(0)
    texts = [at for at in range(len(good)) if good.startswith(b'{"annotations', at)]
    for _ in range(60):
        damaged = bytearray(good)
        for _ in range(rng.choice((1, 3))):
            damaged[rng.choice(texts) + rng.randrange(120)] = rng.choice(b'\0\xff{}[]",:-19eE.\\ua')
        (folder / "x.tar").write_bytes(damaged)
        try:
            validate(read_annotations(folder))
        except FileError as error:
            assert str(folder) in str(error)


# ------------------------------------------------------------------ the index


def test_shards_are_read_once_and_again_when_they_or_their_classes_change(put, monkeypatch, tmp_path):
    monkeypatch.setenv("DETSEG_CACHE", str(tmp_path / "cache"))
    read, samples = [], webdataset.samples_of
    monkeypatch.setattr(webdataset, "samples_of", lambda name, kind: read.append(name[-5:]) or samples(name, kind))
    objects = [{"bbox": BOX, "label": "dog"}]
    folder = put({"classes.txt": "dog"}, x=[("a", objects)], y=[("b", objects)])
    first = read_annotations(folder)
    monkeypatch.chdir(folder)
    second = read_annotations("{x,y}.tar")
    assert read == ["x.tar", "y.tar"] and same(first, second, paths=True)
    put(y=[("b", objects * 2)])
    assert len(read_annotations(folder).ids) == 3 and len(read) == 4
    put({"classes.txt": "dog\ncat"})
    assert read_annotations(folder).names == ("dog", "cat") and len(read) == 6
    (index,) = (tmp_path / "cache" / "indices").glob("*.npz")
    content = index.read_bytes()
    for damaged in (b"", b"\0" * 100, content[:-200], content.replace(b'"version":1', b'"version":9')):
        index.write_bytes(damaged)
        before = len(read)
        assert len(read_annotations(folder).ids) == 3 and len(read) == before + 2
    monkeypatch.setenv("DETSEG_CACHE", "/dev/null/nowhere")  # cannot be written
    assert len(read_annotations(folder).ids) == 3


def test_of_a_remote_place(put, monkeypatch, tmp_path):
    monkeypatch.setenv("DETSEG_CACHE", str(tmp_path / "cache"))
    folder = put({"classes.txt": "dog"}, **{"train-0": [("a", [{"bbox": BOX, "label": "dog"}])], "val-0": [("b", [])]})
    files = fsspec.filesystem("memory")
    for path in folder.iterdir():
        files.pipe(f"/remote-set/{path.name}", path.read_bytes())
    local = read_dataset(folder)
    for pattern in ("memory://remote-set", "memory://remote-set/{train,val}-0.tar", "memory:/remote-set/*.tar"):
        remote = read_dataset(pattern)
        assert same(local["train"], remote["train"]) and validate(remote["val"], other=remote["train"]) != []
        np.testing.assert_array_equal(read_image(remote["train"].paths[0]), read_image(local["train"].paths[0]))
    assert len(list((tmp_path / "cache").rglob("*.tar"))) == 1
    files.rm("/remote-set", recursive=True)


# ------------------------------------------------------------------ training


def test_images_without_room_are_read_again_each_time(put, monkeypatch):
    shape = [{"bbox": BOX, "label": "dog", "segmentation": [[10, 5, 30, 5, 30, 35]]}]
    data = read_annotations(put({"classes.txt": "dog"}, x=[("a", []), ("b", shape)]))
    masks = SemanticMasks.from_annotations(data)
    kept, drawn = images_of(data, 32), masks_of(masks, 32)
    assert isinstance(kept, ImageCache) and isinstance(drawn, MaskCache)
    monkeypatch.setattr("detseg.data.cache._room_for", lambda size: "")
    read = images_of(data, 32)
    assert isinstance(read, ResizedImages) and len(read) == 2
    for index in range(2):
        np.testing.assert_array_equal(read[index], kept[index])
    assert isinstance(masks_of(masks, 32), ResizedMasks)
    np.testing.assert_array_equal(masks_of(masks, 32)[1], drawn[1])
    assert image_marks(data, read).tolist() == image_marks(data, kept).tolist()
    with pytest.raises(ValueError, match="too much for the memory"):
        images_of(replace(data, paths=np.array(["a.jpg", "b.jpg"])), 32)


QUICK = "--backbone test_efficientnet --weights none --size 64 --batch-size 2 --epochs 2 --mosaic 0.5 --mixup 0.5"


def train(data, output):
    with untimed():
        return main(["train", "detector", "--data", str(data), "--output", str(output), *QUICK.split()])


@pytest.mark.slow
@pytest.mark.parametrize("place", ["kept", "read", "remote"])
def test_training_from_shards_is_training_from_the_files(small, tmp_path, monkeypatch, place):
    """Bit for bit, where all shards are one window; with decoded images kept, or not, and through a cache of two."""
    monkeypatch.setattr(webdataset_write, "PER_SHARD", 3)
    assert main(["convert", str(small), "--to", "webdataset", "--output", str(tmp_path / "shards")]) == 0
    assert train(small, tmp_path / "files") == 0
    data, files = tmp_path / "shards", fsspec.filesystem("memory")
    if place != "kept":
        monkeypatch.setattr("detseg.data.cache._room_for", lambda size: "")
    if place == "remote":
        sizes = [files.pipe(f"/far/{path.name}", path.read_bytes()) or path.stat().st_size for path in data.iterdir()]
        data, cache = "memory://far/", ShardCache(tmp_path, 2 * max(sizes))
        monkeypatch.setattr("detseg.data.shard_cache.TOGETHER", 2)
        monkeypatch.setattr("detseg.data.shard_members.shard_cache", lambda: cache)
    assert train(data, tmp_path / "run") == 0
    if place == "remote":
        files.rm("/far", recursive=True)
        assert 0 < sum(path.stat().st_size for path in tmp_path.glob("*.tar")) <= cache.limit
    local, run = (state_of(tmp_path / name) for name in ("files", "run"))
    assert {path.split("/")[1].split(":")[0] for path in differences(local, run)} <= {"fingerprint"}
    saved = [dict(load_model(tmp_path / name)[0].state_dict()) for name in ("files", "run")]
    assert differences(*saved) == []


@pytest.mark.slow
def test_killed_and_resumed_on_shards_it_ends_as_it_would_have(tmp_path, monkeypatch):
    """With more shards than are read from at a time; images are read anew in every epoch."""
    monkeypatch.setattr(webdataset_write, "PER_SHARD", 1)
    small = write_small_set(tmp_path / "small", train=TOGETHER + 4)
    assert main(["convert", str(small), "--to", "webdataset", "--output", str(tmp_path / "shards")]) == 0
    words = [*QUICK.replace("--epochs 2", "--epochs 6").split(), "--precision", "fp32", "--workers", "2"]
    command = ["train", "detector", "--data", str(tmp_path / "shards"), *words, "--output"]
    assert main([*command, str(tmp_path / "whole")]) == 0
    parts = tmp_path / "parts"
    child = subprocess.Popen([sys.executable, "-m", "detseg", *command, str(parts)], stdout=subprocess.DEVNULL)
    while child.poll() is None and not ((parts / "resume.pt").exists() and state_of(parts)["step"]):
        time.sleep(0.02)
    child.kill()
    assert child.wait(600) == -signal.SIGKILL
    assert 0 < state_of(parts)["step"] < 60
    assert main(["train", "detector", "--resume", str(parts)]) == 0
    assert differences(state_of(tmp_path / "whole"), state_of(parts)) == []
    saved = [dict(load_model(folder)[0].state_dict()) for folder in (tmp_path / "whole", parts)]
    assert differences(*saved) == []
