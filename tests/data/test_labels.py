"""Reading classification sets of every form, and what is said of those that are wrong."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from detseg.data.annotations import AnnotationError, Category
from detseg.data.checks.validate import checked, validate
from detseg.data.formats import read_labelled_dataset, read_labels
from detseg.data.formats.label_table import read_label_table
from detseg.data.labels import LabelledImages, divide
from detseg.flowers.dataset import write_flowers
from tests.data.annotation_samples import write_picture

CLASSES = ("daisy", "rose", "tulip")


def write_classes(folder, counts=(4, 4, 4), names=CLASSES, seed=0):
    for number, (name, count) in enumerate(zip(names, counts, strict=True)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            write_picture(folder / name / f"{i}.png", 32 + i, 24, seed=1000 * seed + 100 * number + i)
    return folder


def labels_of(images, root):
    return {
        path.removeprefix(f"{root}/"): images.names[label]
        for path, label in zip(images.paths.tolist(), images.labels.tolist(), strict=True)
    }


def write_table(folder, text, name="labels.csv", images=("a.jpg", "b.jpg", "c.jpg")):
    for seed, image in enumerate(images):
        write_picture(folder / image, seed=seed)
    (folder / name).write_text(text)
    return folder / name


# ------------------------------------------------------------------ folders


def test_split_folders(tmp_path):
    write_classes(tmp_path / "train", (3, 2, 1))
    write_classes(tmp_path / "valid", (1, 0, 2), seed=1)
    write_classes(tmp_path / "test", (1, 1, 1), seed=2)
    splits = read_labelled_dataset(tmp_path)
    assert list(splits) == ["train", "val", "test"]
    assert [part.counts.tolist() for part in splits.values()] == [[3, 2, 1], [1, 0, 2], [1, 1, 1]]
    train = splits["train"]
    assert train.categories == tuple(Category(i, name) for i, name in enumerate(CLASSES))
    assert labels_of(train, tmp_path)["train/rose/1.png"] == "rose"
    assert train.sizes[:3].tolist() == [[32, 24], [33, 24], [34, 24]]
    assert (train.labels.dtype, train.sizes.dtype, train.image_ids.dtype) == (np.int64, np.int32, np.int64)
    assert len(read_labels(tmp_path, "test")) == 3
    assert read_labels(tmp_path / "train").names == CLASSES
    with pytest.raises(AnnotationError, match=r"holds the splits train, val, test; choose one"):
        read_labels(tmp_path)


def test_images_that_are_not_read_are_told(tmp_path):
    write_classes(tmp_path, (2, 2, 2))
    for name in ("x.svg", "deeper/y.svg"):
        (tmp_path / "rose" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "rose" / name).touch()
    (problem,) = validate(read_labels(tmp_path))
    assert (problem.severity, problem.kind) == ("warning", "left-out-files")
    assert problem.what == f"2 .svg files are left out, the first is {tmp_path}/rose/deeper/y.svg"


def test_class_folders_are_divided_by_rule(tmp_path):
    write_classes(tmp_path, (20, 20, 40))
    splits = read_labelled_dataset(tmp_path)
    assert [part.counts.tolist() for part in splits.values()] == [[15, 15, 30], [3, 3, 6], [2, 2, 4]]
    everything = np.concatenate([part.paths for part in splits.values()])
    assert len(set(everything.tolist())) == 80
    without_test = read_labelled_dataset(tmp_path, split=(0.5, 0.5))
    assert [part.counts.tolist() for part in without_test.values()] == [[10, 10, 20]] * 2
    other = read_labelled_dataset(tmp_path, seed=1)
    assert set(other["val"].paths.tolist()) != set(splits["val"].paths.tolist())


def test_the_division_is_the_same_in_another_place(tmp_path):
    write_classes(tmp_path / "one", (9, 9, 9))
    shutil.copytree(tmp_path / "one", tmp_path / "elsewhere/two")
    a, b = (read_labelled_dataset(folder) for folder in (tmp_path / "one", tmp_path / "elsewhere/two"))
    for split in a:
        assert labels_of(a[split], tmp_path / "one") == labels_of(b[split], tmp_path / "elsewhere/two")


def test_a_missing_validation_part_is_taken_from_training(tmp_path):
    write_classes(tmp_path / "train", (6, 6, 6))
    write_classes(tmp_path / "test", (2, 2, 2), seed=1)
    splits = read_labelled_dataset(tmp_path)
    assert [part.counts.tolist() for part in splits.values()] == [[5] * 3, [1] * 3, [2] * 3]


def test_what_is_in_class_folders_but_no_image_or_class_is_left_out(tmp_path):
    write_classes(tmp_path, (2, 2, 2))
    (tmp_path / "rose/notes.txt").write_text("x")
    write_picture(tmp_path / ".cache/x.png")
    write_picture(tmp_path / "__MACOSX/x.png")
    write_picture(tmp_path / "rose/deeper/x.JPG".lower())
    write_picture(tmp_path / "loose.png")
    found = read_labels(tmp_path)
    assert found.names == CLASSES
    assert found.counts.tolist() == [2, 3, 2]
    assert "1 images lie beside the class folders, the first is loose.png" in str(validate(found)[0])


def test_a_class_file_gives_the_order_and_classes_without_images(tmp_path):
    write_classes(tmp_path, (1, 2, 3))
    (tmp_path / "classes.txt").write_text("tulip\nrose\nlily\ndaisy\n")
    found = read_labels(tmp_path)
    assert found.names == ("tulip", "rose", "lily", "daisy")
    assert found.counts.tolist() == [3, 2, 0, 1]
    (tmp_path / "classes.txt").write_text("tulip\nrose\n")
    with pytest.raises(AnnotationError, match=r"classes\.txt: does not list the classes 'daisy'"):
        read_labels(tmp_path)
    (tmp_path / "classes.txt").write_text("tulip\ntulip\n")
    with pytest.raises(AnnotationError, match="names given twice: tulip"):
        read_labels(tmp_path)


def test_folders_named_by_numbers_are_sorted_as_numbers(tmp_path):
    write_classes(tmp_path, (1, 2, 3), names=("10", "9", "01"))
    found = read_labels(tmp_path)
    assert found.categories == (Category(1, "01"), Category(9, "9"), Category(10, "10"))
    assert found.counts.tolist() == [3, 2, 1]


def test_a_folder_of_boxes_is_told_as_such(tmp_path):
    write_flowers(tmp_path, train=1, val=1, size=(64, 64))
    with pytest.raises(AnnotationError, match=r"boxes, not with one class each.*detseg crops --data"):
        read_labelled_dataset(tmp_path)


def test_nothing_to_read(tmp_path):
    with pytest.raises(AnnotationError, match="does not exist"):
        read_labels(tmp_path / "none")
    write_classes(tmp_path, (2,), names=("only",))
    with pytest.raises(AnnotationError, match="of two or more classes"):
        read_labelled_dataset(tmp_path)
    (tmp_path / "x.txt").write_text("")
    with pytest.raises(AnnotationError, match="Looked for"):
        read_labels(tmp_path / "x.txt")
    with pytest.raises(ValueError, match="2 or 3 shares"):
        read_labelled_dataset(tmp_path, split=(1.0,))


# ------------------------------------------------------------------ tables


def test_tables(tmp_path):
    for case, text in enumerate(
        (
            "path,label\na.jpg,rose\nb.jpg,daisy\nc.jpg,rose\n",
            "Label;Image Name;note\nrose;a.jpg;x\ndaisy;b.jpg;y, z\nrose;c.jpg;\n",
            "file\tspecies\na.jpg\trose\n\nb.jpg\tdaisy\nc.jpg\trose",
            "a.jpg,rose\nb.jpg,daisy\nc.jpg,rose\n",
            "\ufeffid,breed\na,rose\nb,daisy\nc,rose\n",
            'image,class\n"a.jpg","rose"\n"b.jpg","daisy"\n"c.jpg","rose"\n',
            "file,kind of flower\na,rose\nb,daisy\nc,rose\n",
        )
    ):
        folder, place = tmp_path / str(case), (".", "images")[case % 2]
        folder.mkdir()
        file = write_table(folder, text, images=[f"{place}/{name}.jpg" for name in "abc"])
        found = read_labels(file)
        assert found.names == ("daisy", "rose"), text
        assert found.labels.tolist() == [1, 0, 1], text
        assert not validate(found)
        assert len(read_labels(folder)) == 3


def test_a_table_with_a_column_of_splits(tmp_path):
    names = [f"{n}.jpg" for n in "abcdef"]
    splits = ("train", "Validation", "train", "TEST", "val", "train")
    rows = [f"{n},{'xy'[i % 2]},{s}" for i, (n, s) in enumerate(zip(names, splits, strict=True))]
    file = write_table(tmp_path, "\n".join(["name,class,split", *rows]), images=names)
    found = read_labelled_dataset(file)
    assert {split: len(part) for split, part in found.items()} == {"train": 3, "val": 2, "test": 1}
    assert found["val"].labels.tolist() == [1, 0]
    without_heading = write_table(tmp_path, "\n".join(rows), images=names)
    assert {split: len(part) for split, part in read_labelled_dataset(without_heading).items()} == {
        "train": 3,
        "val": 2,
        "test": 1,
    }


def test_a_table_for_each_split(tmp_path):
    write_table(tmp_path, "name,label\n1.jpg,8\n2.jpg,10\n", "train.csv", ["train/1.jpg", "train/2.jpg"])
    write_table(tmp_path, "name,label\n1.jpg,010\n", "val.csv", ["val/1.jpg"])
    found = read_labelled_dataset(tmp_path)
    assert found["train"].categories == found["val"].categories == (Category(8, "8"), Category(10, "10"))
    assert found["train"].labels.tolist() == [0, 1] and found["val"].labels.tolist() == [1]
    assert found["train"].paths[0].endswith("train/1.jpg") and found["val"].paths[0].endswith("val/1.jpg")


def test_numbers_with_a_class_file_count_its_lines(tmp_path):
    file = write_table(tmp_path, "name,label\na.jpg,2\nb.jpg,0\nc.jpg,2\n")
    (tmp_path / "classes.txt").write_text("tulip\nrose\ndaisy\n")
    found = read_labels(file)
    assert [found.names[label] for label in found.labels] == ["daisy", "tulip", "daisy"]


def test_a_table_is_divided_by_rule(tmp_path):
    names = [f"{i}.jpg" for i in range(20)]
    rows = [f"{name},{'ab'[i % 2]}" for i, name in enumerate(names)]
    file = write_table(tmp_path, "\n".join(rows), images=names)
    found = read_labelled_dataset(file)
    assert {split: len(part) for split, part in found.items()} == {"train": 15, "val": 3, "test": 2}
    file.write_text("\n".join(rows[::-1]))
    again = read_labelled_dataset(file)
    assert {s: set(part.paths.tolist()) for s, part in found.items()} == {
        s: set(part.paths.tolist()) for s, part in again.items()
    }


def test_wrong_tables_are_told_with_their_line(tmp_path):
    for text, message in (
        ("", "the table is empty"),
        ("path,label\n", "a heading and nothing below"),
        ("x,y,z\n1,2,3\n", r"line 1: no columns of images and classes in \(x, y, z\)"),
        ("path,label\na.jpg,rose\nb.jpg\n", "line 3: 1 cells where the first row has 2"),
        ("path,label\na.jpg,rose,x\n", "line 2: 3 cells where the first row has 2"),
        ("path,label\na.jpg,\n", "line 2: there is no class"),
        ("path,label\n,rose\n", "line 2: there is no name of an image"),
        ("path,label,split\na.jpg,rose,later\n", "line 2: 'later' is no split"),
        ("a.jpg,rose,later\n", "line 1: 'later' is no split"),
        (b"\xff\xfe\x00", "cannot be read as text"),
    ):
        (tmp_path / "t.csv").write_bytes(text.encode() if isinstance(text, str) else text)
        with pytest.raises(AnnotationError, match=rf"t\.csv.*{message}"):
            read_label_table(tmp_path / "t.csv")


def test_images_in_a_folder_that_is_named(tmp_path):
    images = ["../far/off/a.jpg", "../far/off/b.jpg"]
    file = write_table(tmp_path / "set", "path,label\na.jpg,x\nb.jpg,y\n", images=images)
    assert {p.kind for p in validate(read_labels(file))} == {"missing-image"}
    assert not validate(read_labels(file, images=tmp_path / "far/off"))


def test_a_table_beside_split_folders_full_of_images(tmp_path):
    for split in ("train", "test"):
        for i in range(3):
            write_picture(tmp_path / f"{split}/{split}{i}.jpg", seed=i)
    (tmp_path / "labels.csv").write_text("id,breed\ntrain0,pug\ntrain1,beagle\ntrain2,pug\n")
    for path in (tmp_path, tmp_path / "labels.csv"):
        found = read_labels(path)
        assert labels_of(found, tmp_path / "train") == {
            "train0.jpg": "pug",
            "train1.jpg": "beagle",
            "train2.jpg": "pug",
        }
        assert not validate(found)
    write_classes(tmp_path / "train", (1, 1, 1))
    assert read_labels(tmp_path, "train").names == CLASSES, "folders of classes go before a table"


def test_a_table_whose_images_are_elsewhere_is_told_how_to_name_them(tmp_path, caplog):
    write_picture(tmp_path / "far/a.jpg")
    (tmp_path / "set").mkdir()
    file = write_table(tmp_path / "set", "path,label\na.jpg,x\nb.jpg,y\n", images=[])
    for mend in (False, True):
        with pytest.raises(AnnotationError) as error:
            checked(read_labels(file), None, repairing=mend, print_line=print)
        assert str(error.value).startswith("2 errors in the annotations:")
        assert "name the folder (--images, or --source-images of" in str(error.value)
        assert str(error.value).endswith("--repair would leave no image: correct what is listed above.")
    assert not caplog.records
    with pytest.raises(AnnotationError, match="--repair repairs all of them"):
        checked(read_labels(file, images=tmp_path / "far"), None, repairing=False, print_line=print)


def test_several_tables_are_ambiguous(tmp_path):
    write_table(tmp_path, "path,label\na.jpg,x\n", "one.csv")
    write_table(tmp_path, "path,label\na.jpg,x\n", "two.csv")
    with pytest.raises(AnnotationError, match=r"several tables could be meant \(one\.csv, two\.csv\)"):
        read_labelled_dataset(tmp_path)


# ------------------------------------------------------------------ division


@pytest.mark.parametrize("shares", [(0.75, 0.15, 0.1), (0.8, 0.2)])
def test_division_is_stratified(shares):
    for counts in ((1,), (2,), (3,), (10, 10, 10), (13,) * 9, (7, 1, 30, 4), (5,) * 21, (1, 2, 3, 4, 100)):
        assert_stratified(counts, shares)


def assert_stratified(counts, shares):
    labels = np.repeat(np.arange(len(counts)), counts)
    keys = [f"{label}/{i}" for i, label in enumerate(labels)]
    part = divide(keys, labels, shares, 0)
    table = np.array([np.bincount(part[labels == k], minlength=len(shares)) for k in range(len(counts))])
    assert (table[:, 0] > 0).all()
    for row, count in zip(table, counts, strict=True):
        assert row.sum() == count
        assert (row > 0).sum() >= min(count, len(shares))
        if count >= 10:
            assert (np.abs(row - count * np.array(shares)) < 1).all()
    if min(counts) >= 10:
        total = table.sum(axis=0)
        assert (np.abs(total - total.sum() * np.array(shares)) <= 1).all()
    shuffled = np.random.default_rng(0).permutation(len(keys))
    again = divide([keys[i] for i in shuffled], labels[shuffled], shares, 0)
    assert np.array_equal(again, part[shuffled])


def test_division_of_nothing_and_wrong_shares():
    assert divide([], np.zeros(0, np.int64), (0.5, 0.5), 0).shape == (0,)
    for shares in ((0.5, 0.6), (1.0, 0.0), (-1, 2), ()):
        with pytest.raises(ValueError, match="together 1"):
            divide(["a"], np.zeros(1, np.int64), shares, 0)


# Sorted by the beginnings of blake2b("0/rose/<i>.jpg"), as b2sum gives them: 9 + 2 + 1 images.
PINNED = [0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1]


def test_division_is_pinned():
    part = divide([f"rose/{i}.jpg" for i in range(12)], np.zeros(12, np.int64), (0.75, 0.15, 0.1), 0)
    assert part.tolist() == PINNED


# ------------------------------------------------------------------ checks


@pytest.fixture
def sound(tmp_path):
    return read_labels(write_classes(tmp_path / "train", (2, 2, 2)))


def kinds(problems):
    return [(problem.severity, problem.kind) for problem in problems]


def test_a_sound_set_has_no_problems(sound, tmp_path):
    assert validate(sound) == []
    val = read_labels(write_classes(tmp_path / "val", (1, 1, 1), seed=5))
    assert validate(val, other=sound) == []


def test_missing_and_damaged_images(sound, tmp_path):
    (tmp_path / "train/daisy/0.png").unlink()
    damaged = tmp_path / "train/rose/0.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    found = validate(sound)
    assert kinds(found) == [("error", "missing-image"), ("error", "damaged-image")]
    assert [problem.image_index for problem in found] == [0, 2]
    assert validate(sound, check_images=False) == []


def test_images_of_another_size(sound):
    sizes = sound.sizes.copy()
    sizes[1] = 99, 99
    assert kinds(validate(replace(sound, sizes=sizes))) == [("error", "size-differs")]


def test_the_same_image_twice(sound, tmp_path):
    shutil.copy(tmp_path / "train/rose/0.png", tmp_path / "train/rose/copy.png")
    shutil.copy(tmp_path / "train/tulip/1.png", tmp_path / "train/daisy/copy.png")
    found = validate(read_labels(tmp_path / "train"))
    assert kinds(found) == [("error", "two-classes"), ("warning", "duplicate-image")]
    assert "as 'daisy' and as 'tulip'" in str(found[0])
    twice = sound.subset([0, 0, 3])
    assert kinds(validate(twice)) == [
        ("error", "duplicate-image-id"),
        ("warning", "no-images"),
        ("warning", "duplicate-path"),
    ]


def test_images_in_both_splits(sound, tmp_path):
    write_classes(tmp_path / "val", (1, 1, 1), seed=5)
    shutil.copy(tmp_path / "train/rose/0.png", tmp_path / "val/rose/other.png")
    val = read_labels(tmp_path / "val")
    found = validate(val, other=sound)
    assert kinds(found) == [("error", "in-both-splits")]
    assert found[0].image.endswith("val/rose/other.png")
    assert validate(val, check_images=False, other=sound) == []


def test_classes_without_images(sound, tmp_path):
    write_classes(tmp_path / "val", (1, 1, 1, 2), names=(*CLASSES, "lily"), seed=5)
    val = read_labels(tmp_path / "val")
    found = validate(val, other=sound)
    assert kinds(found) == [("error", "not-in-training")]
    assert "2 images of 'lily'" in str(found[0]) and "train has none" in str(found[0])
    both = read_labelled_dataset(tmp_path)
    assert kinds(validate(both["train"])) == [("warning", "no-images")]
    assert kinds(validate(both["val"], other=both["train"])) == [("error", "not-in-training")]


def test_labels_and_classes_that_cannot_be(sound):
    labels = sound.labels.copy()
    labels[0], labels[5] = -1, 3
    assert kinds(validate(replace(sound, labels=labels))) == [("error", "unknown-category")] * 2
    one = replace(sound, categories=sound.categories[:1], labels=sound.labels * 0)
    assert kinds(validate(one)) == [("error", "one-class")]
    double = replace(sound, categories=(*sound.categories[:2], Category(2, "rose")))
    assert kinds(validate(double)) == [("warning", "category")]


def test_subsets(sound):
    assert sound.subset([5, 0]).paths.tolist() == sound.paths[[5, 0]].tolist()
    assert sound.subset(sound.labels == 1).counts.tolist() == [0, 2, 0]
    assert len(sound.subset([])) == 0
    for wrong in ([6], [-7], np.ones(3, bool)):
        with pytest.raises(IndexError):
            sound.subset(wrong)


def test_arrays_must_fit():
    with pytest.raises(ValueError, match=r"LabelledImages\.labels has shape \(2,\), expected \(1,\)"):
        LabelledImages(
            categories=(),
            image_ids=np.zeros(1, np.int64),
            paths=np.array(["a"]),
            sizes=np.zeros((1, 2), np.int32),
            labels=np.zeros(2, np.int64),
        )
