"""The images of units: of lists, tar archives and tables."""

import numpy as np
import pytest

from detseg.cluster.images import images_of, open_source
from detseg.cluster.units import Unit
from tests.cluster.brightest import image, write_tar


def read(unit, folder):
    """Name, and the pixels' sum or the message, of each image."""
    found = [open_source(source, 3) for source in images_of(unit, str(folder))]
    return [(name, str(x) if isinstance(x, ValueError) else int(x.astype(np.int64).sum())) for name, x in found]


def total(number):
    import cv2

    return int(cv2.imdecode(np.frombuffer(image(number), np.uint8), 1).astype(np.int64).sum())


def test_images_of_a_list_are_called_as_they_were_named(tmp_path):
    (tmp_path / "a.png").write_bytes(image(1))
    (tmp_path / "b.png").write_bytes(b"no image")
    names = ("a.png", str(tmp_path / "a.png"), "b.png", "none.png")
    found = read(Unit("u", "images", names), tmp_path)
    assert found[:2] == [("a.png", total(1)), (names[1], total(1))]
    assert [name for name, _ in found[2:]] == ["b.png", "none.png"]
    assert "not a readable image" in found[2][1] and "No such file" in found[3][1]


def test_images_of_an_archive(tmp_path):
    files = {
        "a/1.png": image(1),
        "a/1.json": b"{}",
        "2.txt": b"none",
        "3.seg.png": b"a mask",
        "3.PNG": image(3),
        "4.jpg": b"no image",
    }
    write_tar(tmp_path / "0.tar", files)
    found = read(Unit("u", "archive", ("0.tar",)), tmp_path)
    assert [name for name, _ in found] == ["a/1.png", "2", "3.png", "4.jpg"]
    assert found[0][1] == total(1) and found[2][1] == total(3)
    assert found[1][1] == "2: no image among its files (.txt)" and "not a readable image" in found[3][1]


def test_an_archive_that_is_cut_short_gives_the_images_before(tmp_path):
    path = write_tar(tmp_path / "0.tar", {"1.png": image(1), "2.png": image(2), "3.png": image(3)})
    path.write_bytes(path.read_bytes()[: 2 * 1024 + 600])
    found = read(Unit("u", "archive", ("0.tar",)), tmp_path)
    assert found[0] == ("1.png", total(1)) and found[-1][0] == "0.tar" and "cut short or damaged" in found[-1][1]


def test_an_archive_that_is_not_there(tmp_path):
    ((name, message),) = read(Unit("u", "archive", ("0.tar",)), tmp_path)
    assert name == "0.tar" and "No such file" in message


def test_storage_that_fails_is_no_fault_of_an_image(tmp_path, monkeypatch):
    write_tar(tmp_path / "0.tar", {"1.png": image(1)})

    def fail(*_, **__):
        raise TimeoutError("timed out")

    monkeypatch.setattr("pathlib.Path.open", fail)
    with pytest.raises(OSError, match="timed out"):
        read(Unit("u", "archive", ("0.tar",)), tmp_path)


def table(path, columns):
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    parquet.write_table(pyarrow.table(columns), path, row_group_size=2)


@pytest.mark.parametrize(
    ("columns", "names"),
    [
        ({"image": "content"}, ["{table}#0", "{table}#1", "{table}#2"]),
        ({"jpg": "content", "key": ["a", "b", "c"], "other": [1, 2, 3]}, ["a", "b", "c"]),
        ({"x": "content", "image_id": [7, 8, 9]}, ["7", "8", "9"]),
        ({"image": "pair"}, ["a.png", "b.png", "c.png"]),
        ({"image": "pair", "file_name": ["1", "2", "3"]}, ["1", "2", "3"]),
        ({"url": ["0.png", "1.png", "2.png"]}, ["0.png", "1.png", "2.png"]),
        ({"place": ["0.png", "1.png", "2.png"]}, ["0.png", "1.png", "2.png"]),
        ({"image": ["0.png", "1.png", "2.png"], "id": ["a", "b", "c"]}, ["a", "b", "c"]),
    ],
)
def test_images_of_a_table(columns, names, tmp_path):
    content = [image(number) for number in range(3)]
    for number, one in enumerate(content):
        (tmp_path / f"{number}.png").write_bytes(one)
    pairs = [{"bytes": one, "path": f"{name}.png"} for one, name in zip(content, "abc", strict=True)]
    kinds = {"content": content, "pair": pairs}
    table(tmp_path / "0.parquet", {n: kinds.get(v, v) if isinstance(v, str) else v for n, v in columns.items()})
    found = read(Unit("u", "table", ("0.parquet",)), tmp_path)
    assert [name for name, _ in found] == [name.format(table=tmp_path / "0.parquet") for name in names]
    assert [value for _, value in found] == [total(number) for number in range(3)]


def test_rows_without_an_image(tmp_path):
    table(tmp_path / "0.parquet", {"image": [image(1), None, b"no image"], "key": ["a", "b", None]})
    found = read(Unit("u", "table", ("0.parquet",)), tmp_path)
    assert found[0] == ("a", total(1)) and found[1] == ("b", "b: the row has no image")
    assert found[2][0].endswith("0.parquet#2") and "not a readable image" in found[2][1]


def test_tables_whose_images_cannot_be_told(tmp_path):
    table(tmp_path / "0.parquet", {"left": [b"1"], "right": [b"2"]})
    ((name, message),) = read(Unit("u", "table", ("0.parquet",)), tmp_path)
    assert name == "0.parquet" and "which column holds the images? Call it image; there are left (binary)" in message
    (tmp_path / "1.parquet").write_bytes(b"no table")
    ((name, message),) = read(Unit("u", "table", ("1.parquet",)), tmp_path)
    assert name == "1.parquet" and "no Parquet file, or damaged" in message


def test_images_of_addresses_of_fsspec():
    fsspec = pytest.importorskip("fsspec")
    files = fsspec.filesystem("memory")
    files.pipe_file("/images-of-units/a.png", image(5))
    try:
        found = read(Unit("u", "images", ("memory://images-of-units/a.png", "memory://images-of-units/b.png")), ".")
    finally:
        files.rm("/images-of-units", recursive=True)
    assert found[0][1] == total(5) and "b.png" in found[1][1]


def test_images_at_web_addresses(tmp_path, monkeypatch):
    def download(address):
        if address.endswith("none.png"):
            raise ValueError(f"{address}: cannot be downloaded: Not Found")
        return image(4)

    monkeypatch.setattr("detseg.cluster.images.download", download)
    names = ("https://a.org/x.png?size=2", "https://a.org/none.png")
    found = read(Unit("u", "images", names), tmp_path)
    assert found == [(names[0], total(4)), (names[1], f"{names[1]}: cannot be downloaded: Not Found")]
