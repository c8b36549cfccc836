"""Finding the images that names mean, and what is told of what was overlooked."""

import logging
import sys
import unicodedata

import pytest

from detseg.data.checks.image_checks import image_problems
from detseg.data.formats import find_images
from detseg.data.formats.image_files import IMAGE_EXTENSIONS, left_out, scan_images
from detseg.data.formats.locate import list_images, locate_images
from detseg.data.formats.same_name import NameIndex, local_name
from detseg.data.images import image_size, read_image
from tests.data.annotation_samples import make, write_picture


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def located(names, *folders, root):
    return [path.removeprefix(f"{root}/") for path in locate_images(names, folders or [root, root / "images"])]


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("a.jpg", "images/a.jpg"),
        ("train\\a.jpg", "images/train/a.jpg"),
        ("C:\\Users\\me\\set\\train\\a.jpg", "images/train/a.jpg"),
        ("/content/set/images/a.jpg", "images/a.jpg"),
        ("data/obj_train_data/a.jpg", "obj_train_data/a.jpg"),
        ("https://host.org/bucket/images/a.jpg?token=x%20y", "images/a.jpg"),
        ("s3://bucket/a.jpg", "images/a.jpg"),
        ("/data/local-files/?d=train/a%20b.jpg", "images/train/a b.jpg"),
        ("/data/upload/1/0f1e2d3c-a.jpg", "images/a.jpg"),
        ("0f1e2d3c-my_rose_1.jpg", "images/my rose (1).jpg"),
        ("a.jpg", "images/0f1e2d3c-a.jpg"),
        ("IMG_1.jpg", "images/IMG_1.JPG"),
        ("Train/a.jpg", "images/train/A.Jpg"),
        ("my%20rose.jpg", "images/my rose.jpg"),
        ("my rose.jpg", "images/my%20rose.jpg"),
        ("my%20rose.jpg", "images/my%20rose.jpg"),
        ("blüte.jpg", f"images/{unicodedata.normalize('NFD', 'blüte')}.jpg"),
        ("a", "images/a.jpeg"),
        ("a.bmp", "images/a.png"),
        ("a.heic", "images/a.jpg"),
        ("../images/a.jpg", "images/a.jpg"),
    ],
)
def test_one_image_is_found(tmp_path, name, file):
    touch(tmp_path, file, "images/other.jpg", "images/train/other.jpg")
    assert located([name], root=tmp_path) == [file]


def test_none_is_taken_where_several_are_meant(tmp_path):
    touch(tmp_path, "images/A.jpg", "images/a.JPG", "images/b.png", "images/b.webp")
    assert located(["a.jpg", "b.jpg", "A.jpg"], root=tmp_path) == ["images/a.jpg", "images/b.jpg", "images/A.jpg"]
    assert not (tmp_path / "images/b.jpg").exists()
    touch(tmp_path, "one/c.jpg", "two/c.jpg")
    names = ["x/c.jpg", "images/A.jpg"]
    assert located(names, tmp_path / "one", tmp_path / "two", tmp_path, root=tmp_path)[0] == "x/c.jpg"


def test_a_name_of_its_own_goes_before_other_spellings(tmp_path):
    touch(tmp_path, "images/a.jpg", "images/b.png")
    assert located(["a.jpg", "A.JPG"], root=tmp_path) == ["images/a.jpg", "images/A.JPG"]
    assert located(["b.jpg", "b.png"], root=tmp_path) == ["images/b.jpg", "images/b.png"]
    assert located(["b.jpg", "b.webp"], root=tmp_path) == ["images/b.jpg", "images/b.webp"], "two mean one file"


def test_names_that_end_at_one_file_are_missing(tmp_path):
    """Two cameras whose images were put into one folder, the second over the first."""
    write_picture(tmp_path / "images/1.jpg")
    names = ["cam1/1.jpg", "cam2/1.jpg"]
    paths = locate_images(names, [tmp_path / "images"])
    assert paths == [str(tmp_path / "images" / name) for name in names]
    problems = list(image_problems(make(paths=paths, sizes=[(64, 48)] * 2)))
    assert [p.kind for p in problems] == ["missing-image"] * 2
    assert problems[0].what == f"the image does not exist, only {tmp_path}/images/1.jpg is there"
    assert locate_images(["cam1/1.jpg"] * 2, [tmp_path / "images"]) == [str(tmp_path / "images/1.jpg")] * 2, "one name"


def test_folders_of_names_are_ignored_only_where_none_is_there(tmp_path, caplog):
    touch(tmp_path, "images/1.jpg", "images/2.jpg")
    with caplog.at_level(logging.WARNING):
        assert located(["cam2/1.jpg", "cam2/2.jpg"], root=tmp_path) == ["images/1.jpg", "images/2.jpg"]
    (record,) = caplog.records
    assert record.getMessage() == (
        f"the folders in the names of 2 of 2 images are ignored: cam2/1.jpg is taken for {tmp_path}/images/1.jpg"
    )
    touch(tmp_path, "images/cam1/3.jpg")
    assert located(["cam2/1.jpg", "cam1/3.jpg"], tmp_path / "images", root=tmp_path) == [
        "images/cam2/1.jpg",
        "images/cam1/3.jpg",
    ]


def test_what_is_as_usual_is_not_told(tmp_path, caplog):
    touch(tmp_path, "images/train2017/1.jpg", "images/IMG_2.JPG")
    names = ["train2017/1.jpg", "/home/me/train2017/1.jpg", "img_2.jpg", "https://x.org/y/IMG_2.JPG"]
    for name in names:
        located([name], tmp_path / "images", tmp_path / "images/train2017", root=tmp_path)
    assert not caplog.records
    touch(tmp_path, "images/3.png")
    located(["3.jpg"], root=tmp_path)
    assert "extensions or prefixes of the names of 1 of 1 images are ignored: 3.jpg is taken" in caplog.text


def test_all_below_is_searched_when_nothing_is_found(tmp_path, caplog):
    touch(tmp_path, "data/batch1/1.jpg", "data/batch2/2.jpg", "data/.hidden/1.jpg", "ann/x.json")
    assert located(["1.jpg", "2.JPG"], root=tmp_path) == ["data/batch1/1.jpg", "data/batch2/2.jpg"]
    assert "2 of 2 images are found in folders further below: 1.jpg is taken for" in caplog.text
    assert located(["1.jpg"], tmp_path / "ann", tmp_path, root=tmp_path) == ["data/batch1/1.jpg"], "the set's folder"
    assert located(["1.jpg"], tmp_path / "ann", root=tmp_path) == ["ann/1.jpg"], "only in the folders that are given"
    touch(tmp_path, "data/batch2/1.jpg")
    assert located(["1.jpg", "2.jpg"], root=tmp_path) == ["1.jpg", "data/batch2/2.jpg"], "two of that name"
    assert located(["batch2/1.jpg", "batch1/1.jpg"], root=tmp_path) == ["data/batch2/1.jpg", "data/batch1/1.jpg"]
    touch(tmp_path, "images/3.jpg")
    assert located(["1.jpg", "3.jpg"], root=tmp_path) == ["images/1.jpg", "images/3.jpg"], "where most are"


def test_none_and_one_hundred_thousand_names(tmp_path):
    assert locate_images([], [tmp_path]) == []
    touch(tmp_path, "images/99999.jpg")
    cache = find_images.FolderCache()
    names = [f"images/{number}.jpg" for number in range(100_000)]
    listed = []
    original, find_images.os.listdir = find_images.os.listdir, lambda path: listed.append(path) or original(path)
    try:
        paths = locate_images(names, [tmp_path, tmp_path / "images"])
    finally:
        find_images.os.listdir = original
    assert paths[-1] == f"{tmp_path}/images/99999.jpg" and paths[-1] in cache
    assert len(listed) < 12, "folders are listed once, not asked once for each name"


def test_names_that_can_be_no_files(tmp_path):
    names = ["", ".", "..", "a/", "x" * 300 + ".jpg", "\0/a.jpg", "https://[x/a.jpg", "?d="]
    paths = locate_images(names, [tmp_path, tmp_path / "images"])
    problems = list(image_problems(make(paths=paths, sizes=[(64, 48)] * len(names))))
    assert len(paths) == len(problems) == len(names)
    assert {problem.kind for problem in problems} == {"missing-image"}


def test_names_and_addresses():
    assert local_name("file:///a/b%20c.jpg") == "a/b c.jpg"
    assert local_name("http://[bad/a.jpg") == "[bad/a.jpg"
    assert NameIndex([]).find("a") == [] and NameIndex(["a.jpg"]).find("") == []
    assert NameIndex(["0f1e2d3c-a.jpg"]).find("deadbeef-a.jpg") == [], "two uploads are two images"
    assert NameIndex(["a.webp.jpg"]).find("a") == ["a.webp.jpg"]


def test_kinds_of_images(tmp_path):
    kinds = ["jfif", "gif", "avif", "jp2", "mpo", "ppm", "pgm", "pnm", "JPG", "tiff"]
    for kind in kinds:
        form = {"jfif": "jpeg", "pnm": "ppm", "jp2": "jpeg2000"}.get(kind)
        file = write_picture(tmp_path / f"a.{kind}", **({"format": form} if form else {}))
        assert image_size(file) == (64, 48) and read_image(file).shape == (48, 64, 3), kind
    assert len(list_images(tmp_path)) == len(kinds)


def test_images_that_are_not_read_are_counted(tmp_path):
    touch(tmp_path, "b.svg", "c.CR2", "deep/d.svg", "README", "notes.txt", ".hidden.svg")
    write_picture(tmp_path / "a.jpg")
    (tmp_path / "e").write_bytes((tmp_path / "a.jpg").read_bytes())
    images, others = scan_images(tmp_path)
    assert images == [str(tmp_path / "a.jpg")]
    assert left_out(others) == [
        (f"1 image without extension is left out, the first is {tmp_path}/e", "add .jpg or what they are"),
        (f"1 .cr2 file is left out, the first is {tmp_path}/c.CR2", "save them as JPEG or PNG"),
        (f"2 .svg files are left out, the first is {tmp_path}/b.svg", "save them as JPEG or PNG"),
    ]
    told = left_out(["x.heic"])
    assert told == [
        ("1 .heic file is left out, the first is x.heic", "pip install 'detseg[heic]', or save them as JPEG")
    ]


OPENER = """
from PIL import Image, PpmImagePlugin

class Opened(PpmImagePlugin.PpmImageFile):
    format = "HEIF"
    def _open(self):
        self.fp.seek(4)
        super()._open()

def register_heif_opener():
    Image.register_open("HEIF", Opened, lambda start: start.startswith(b"heic"))
    Image.register_extension("HEIF", ".heic")
"""


def test_heic_is_read_by_the_package_for_it(tmp_path, monkeypatch):
    if ".heic" in IMAGE_EXTENSIONS:
        pytest.skip("a package that reads HEIC is installed")
    file = tmp_path / "a.heic"
    file.write_bytes(b"heicP6 2 1 255\n" + bytes([1, 2, 3, 4, 5, 6]))
    with pytest.raises(ValueError, match="of an unknown format"):
        image_size(file)
    from PIL import Image

    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    monkeypatch.setattr(Image, "EXTENSION", dict(Image.EXTENSION))
    (tmp_path / "pi_heif.py").write_text(OPENER)
    monkeypatch.syspath_prepend(tmp_path)
    assert image_size(file) == (2, 1)
    monkeypatch.delitem(sys.modules, "pi_heif")
