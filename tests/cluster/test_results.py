"""Shards of results: what was written is read, in both formats."""

import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from detseg.cluster import results, storage
from detseg.cluster.results import Mask, Row, encode, read_columns, row_of
from detseg.reading import FileError
from detseg.results import Classification, Results, Segmentation

CODE = {"size": [4, 5], "counts": "04"}
ROWS = [
    Row("a.jpg", 5, 4, [[0.1, 0.2, 3.0, 4.0], [1.0, 1.0, 2.0, 2.0]], [0.9, 0.3], [1, 0], ["rose", "tulip"]),
    Row("b.jpg", 5, 4),
    Row("ç/ü.jpg", error="cut short"),
]


@pytest.fixture(params=results.FORMATS)
def ending(request):
    if request.param == "parquet":
        pytest.importorskip("pyarrow")
    return request.param


def written(rows, ending, folder):
    address = str(folder / f"0.{ending}")
    storage.write(address, encode(rows, ending))
    return read_columns(address)


def test_of_many_classes_the_five_likeliest_are_a_row(ending, tmp_path):
    labels, scores = np.arange(7)[::-1].copy(), np.linspace(0.7, 0.1, 7).astype(np.float32)
    categories = [(10 * k, f"class {k}") for k in range(7)]
    row = row_of("a.jpg", (4, 5), Classification(labels, scores, np.zeros((4, 5, 3), np.uint8), categories))
    assert (row.labels, row.names) == ([6, 5, 4, 3, 2], [f"class {k}" for k in (6, 5, 4, 3, 2)])
    shard = written([row], ending, tmp_path)
    assert shard.labels.tolist() == row.labels and len(shard.boxes) == 0 and shard.counts.tolist() == [5]


def test_classes_of_pixels_are_a_row_with_their_masks(ending, tmp_path):
    mask = np.array([[2, 2, 0], [2, 2, 0]], np.uint8)
    confidence = np.where(mask == 2, 0.75, 0.5).astype(np.float32)
    categories = [(7, "ground"), (8, "sky"), (9, "rose")]
    row = row_of("a.jpg", mask.shape, Segmentation(mask, confidence, np.zeros((2, 3, 3), np.uint8), categories))
    assert (row.labels, row.names, row.scores) == ([2, 0], ["rose", "ground"], [0.75, 0.5])
    shard = written([row], ending, tmp_path)
    assert [coco_mask.decode(one).tolist() for one in shard.masks] == [(mask == k).astype(int).tolist() for k in (2, 0)]
    assert len(shard.boxes) == 0 and shard.counts.tolist() == [2]


def test_rows_as_columns(ending, tmp_path):
    shard = written(ROWS, ending, tmp_path)
    assert shard.images == ["a.jpg", "b.jpg", "ç/ü.jpg"] and shard.errors == [None, None, "cut short"]
    assert shard.counts.tolist() == [2, 0, 0] and shard.labels.tolist() == [1, 0] and shard.masks is None
    assert np.array_equal(shard.boxes.astype(np.float32), np.array(ROWS[0].boxes, np.float32))
    assert np.array_equal(shard.scores.astype(np.float32), np.array([0.9, 0.3], np.float32))


@pytest.mark.parametrize("rows", [[], ROWS[1:2], ROWS[2:]])
def test_shards_without_images_or_objects(rows, ending, tmp_path):
    shard = written(rows, ending, tmp_path)
    assert len(shard.images) == len(shard.errors) == len(shard.counts) == len(rows)
    assert shard.boxes.shape == (0, 4) and len(shard.scores) == len(shard.labels) == 0


def test_masks(ending, tmp_path):
    rows = [Row("a", 5, 4, [[0, 0, 1, 1]], [0.5], [0], ["rose"], [Mask([4, 5], "04")]), Row("b", 5, 4, masks=[])]
    assert written([*rows, ROWS[2]], ending, tmp_path).masks == [CODE]
    assert written(rows[1:], ending, tmp_path).masks in ([], None)


def test_every_digit_of_what_is_found_is_kept(ending, tmp_path):
    rng = np.random.default_rng(0)
    found = Results(
        {
            "boxes": rng.uniform(0, 1000, (50, 4)).astype(np.float32),
            "scores": rng.uniform(0, 1, 50).astype(np.float32),
            "labels": rng.integers(0, 2, 50),
        },
        np.zeros((4, 5, 3), np.uint8),
        [(7, "rose"), (3, "tulip")],
    )
    row = row_of("a.jpg", (4, 5), found)
    assert (row.width, row.height) == (5, 4)
    shard = written([row], ending, tmp_path)
    assert np.array_equal(shard.boxes, found.boxes.astype(np.float64))
    assert np.array_equal(shard.scores, found.scores.astype(np.float64))
    assert np.array_equal(shard.labels, found.labels)


def test_lines_are_json_with_all_columns(tmp_path):
    lines = encode(ROWS, "jsonl").decode().splitlines()
    assert [list(json.loads(line)) for line in lines] == [list(Row.__struct_fields__)] * 3
    assert json.loads(lines[0])["names"] == ["rose", "tulip"]


def test_parquet_is_what_others_read(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    (tmp_path / "0.parquet").write_bytes(encode(ROWS, "parquet"))
    table = parquet.read_table(tmp_path / "0.parquet")
    assert table.column_names == list(Row.__struct_fields__)
    assert table.column("names").to_pylist() == [["rose", "tulip"], [], []]
    assert table.column("width").to_pylist() == [5, 5, None]


def test_damaged_shards_are_named(tmp_path, ending):
    content = encode(ROWS, ending)
    path = tmp_path / f"0.{ending}"
    path.write_bytes(content[:-20])
    with pytest.raises(ValueError, match=r"0\.\w+: .*remove the file and predict again"):
        read_columns(str(path))


@pytest.mark.parametrize("values", [{"image": None}, {"masks": [None]}, {"masks": [{"size": None, "counts": "04"}]}])
def test_parquet_without_what_every_row_has_is_refused_by_name(tmp_path, values):
    pyarrow = pytest.importorskip("pyarrow")
    path = tmp_path / "0.parquet"
    path.write_bytes(encode([Row("a", 5, 4, [[0, 0, 1, 1]], [0.5], [0], ["rose"], [Mask([4, 5], "04")])], "parquet"))
    rows = pyarrow.parquet.read_table(path)
    changed = pyarrow.Table.from_pylist([rows.to_pylist()[0] | values], rows.schema)
    pyarrow.parquet.write_table(changed, path)
    with pytest.raises(FileError, match=r"0\.parquet: an image has no name, or a mask no size or run lengths"):
        read_columns(str(path))


def test_the_line_of_a_damaged_shard(tmp_path):
    (tmp_path / "0.jsonl").write_bytes(encode(ROWS[:1], "jsonl") + b'{"image": 5}\n')
    with pytest.raises(ValueError, match=r"0\.jsonl: line 2: "):
        read_columns(str(tmp_path / "0.jsonl"))


def test_shards_of_a_folder_by_unit(tmp_path):
    for name in ("b.jsonl", "a.parquet", ".c.jsonl.x", ".d.jsonl", "manifest.json"):
        (tmp_path / name).touch()
    assert results.shards_in(str(tmp_path)) == {"a": "a.parquet", "b": "b.jsonl"}
