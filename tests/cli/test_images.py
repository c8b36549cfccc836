import logging

from detseg.cli.images import listed_images
from tests.data.annotation_samples import write_picture


def test_images_of_folders_and_what_is_left_out(tmp_path, caplog):
    for name in ("b.jpg", "deep/a.jfif"):
        write_picture(tmp_path / "in" / name, **({"format": "jpeg"} if name.endswith("jfif") else {}))
    for name in ("c.svg", "d.svg", "notes.txt"):
        (tmp_path / "in" / name).touch()
    with caplog.at_level(logging.WARNING):
        found = listed_images([tmp_path / "in", tmp_path / "named.raw"])
    assert found == [tmp_path / "in/b.jpg", tmp_path / "in/deep/a.jfif", tmp_path / "named.raw"]
    (record,) = caplog.records
    first = tmp_path / "in/c.svg"
    assert record.getMessage() == f"2 .svg files are left out, the first is {first} (save them as JPEG or PNG)"
