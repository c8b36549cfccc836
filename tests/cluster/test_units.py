"""Units of work: every image in one, names that say which images these are."""

from detseg.cluster.sources import Collection
from detseg.cluster.units import units_of


def units(images=(), archives=(), tables=(), folder="/data", size=2):
    return units_of(Collection(tuple(images), tuple(archives), tuple(tables)), folder, size)


def test_no_images_one_and_many():
    assert units() == []
    assert [unit.sources for unit in units(["a.jpg"])] == [("a.jpg",)]
    found = units(["a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg"], ["x.tar"], ["y.parquet"])
    assert [unit.sources for unit in found] == [
        *(("a.jpg", "b.jpg"), ("c.jpg", "d.jpg"), ("e.jpg",)),
        *(("x.tar",), ("y.parquet",)),
    ]
    assert [unit.kind for unit in found] == ["images", "images", "images", "archive", "table"]
    assert [unit.name.rpartition("-")[0] for unit in found] == [
        *("images-000000", "images-000001", "images-000002", "x", "y")
    ]


def test_names_are_those_of_the_images_and_of_no_others():
    one = units(["a.jpg", "b.jpg"])[0].name
    assert units(["a.jpg", "b.jpg", "c.jpg"])[0].name == one
    assert units(["a.jpg", "c.jpg"])[0].name != one
    assert units(["/data/a.jpg", "/data/b.jpg"], folder="/elsewhere")[0].name == one
    assert units(["a.jpg", "b.jpg"], folder="/elsewhere")[0].name != one


def test_archives_of_one_name_in_several_folders():
    names = [unit.name for unit in units(archives=["a/0.tar", "b/0.tar", "s3://b/0.tar"])]
    assert len(set(names)) == 3 and all(name.startswith("0-") for name in names)
    assert all("/" not in name for name in names)
