"""What a folder of results is of."""

import pytest

from detseg.cluster.manifest import MANIFEST, Manifest, begin, fingerprint, holds_results, read_manifest
from detseg.cluster.results import encode

OWN = Manifest("runs/a", "abc", {"classes": ("rose",)}, [(7, "rose")], "jsonl")


def other(**changes):
    values = {name: getattr(OWN, name) for name in OWN.__struct_fields__} | changes
    return Manifest(**values)


def test_a_folder_is_begun_and_gone_on_with(tmp_path):
    folder = tmp_path / "found"
    assert begin(str(folder), OWN, ["a", "b"]) == set()
    assert read_manifest(str(folder)).categories == [(7, "rose")]
    assert begin(str(folder), OWN, ["a", "b"]) == set()
    (folder / "a.jsonl").write_bytes(encode([], "jsonl"))
    assert begin(str(folder), OWN, ["a", "b"]) == {"a"}
    assert begin(str(folder), OWN, ["a", "b", "c"]) == {"a"}  # the collection has grown


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": "abd"}, "was begun with another model, runs/a"),
        ({"categories": [(8, "rose")]}, "was begun with another model, runs/a"),
        ({"options": {}}, r"was begun with another --classes, \['rose'\]"),
        ({"options": OWN.options | {"size": 64}}, "was begun with another --size, the default"),
        ({"shard_format": "parquet"}, "was begun with another --shard-format, jsonl"),
        ({"format": 2}, "was begun with another version, 1"),
    ],
)
def test_nothing_is_mixed(changes, message, tmp_path):
    begin(str(tmp_path), OWN, [])
    assert begin(str(tmp_path), other(model="moved/a"), []) == set()
    with pytest.raises(ValueError, match=message):
        begin(str(tmp_path), other(**changes), [])


def test_results_of_other_images_and_other_files(tmp_path):
    begin(str(tmp_path), OWN, ["a"])
    (tmp_path / "a.jsonl").touch()
    with pytest.raises(ValueError, match=r"holds results of other images \(a, 1 such shards\)"):
        begin(str(tmp_path), OWN, ["b"])
    (tmp_path / MANIFEST).unlink()
    with pytest.raises(ValueError, match="holds files that are no results of --engine ray"):
        begin(str(tmp_path), OWN, ["a"])


def test_folders_of_results_are_told_from_others(tmp_path):
    from pathlib import Path

    assert not holds_results(tmp_path) and not holds_results(tmp_path / "none")
    with pytest.raises(ValueError, match=r"manifest\.json is missing"):
        read_manifest(str(tmp_path))
    begin(str(tmp_path), OWN, [])
    assert holds_results(tmp_path) and holds_results(Path("s3://bucket/found"))
    (tmp_path / MANIFEST).write_text('{"model": 1}')
    with pytest.raises(ValueError, match=r"manifest\.json: model: Expected `str`, got `int`"):
        read_manifest(str(tmp_path))


def test_the_fingerprint_is_of_names_and_contents():
    files = [{"a": b"12"}, {"a": b"1", "b": b"2"}, {"a": b"1"}, {"b": b"12"}, {}]
    assert len({fingerprint(one) for one in files}) == len(files)
    assert fingerprint({"a": b"1", "b": b"2"}) == fingerprint({"b": b"2", "a": b"1"})
