"""Fixtures shared by all tests."""

import gc
import os
from pathlib import Path

import pytest

from detseg.data.crops import crops_of
from detseg.data.formats import read_dataset
from tests.small_masks import write_small_masks
from tests.small_set import write_small_set

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_collection_finish() -> None:
    """What has been imported is never garbage: looked through at each collection, it takes a twentieth of the time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory) -> None:
    """What detseg keeps, it keeps in a folder of these tests."""
    os.environ["DETSEG_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def flowers_det() -> Path:
    """A folder with real annotated flowers (train.json, val.json, images/), where the machine has one."""
    folder = SHARED / "flowers_det"
    if not folder.is_dir():
        pytest.skip(f"real flower images are not on this machine ({folder.name} not found)")
    return folder


@pytest.fixture(scope="session")
def flowers_seg() -> Path:
    """A folder with real flowers and their masks (images/, masks/, train.txt, val.txt), where the machine has one."""
    folder = SHARED / "flowers_seg"
    if not folder.is_dir():
        pytest.skip(f"real flower masks are not on this machine ({folder.name} not found)")
    return folder


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> Path:
    """A COCO folder of bright rectangles: 8 training and 5 validation images."""
    return write_small_set(tmp_path_factory.mktemp("data") / "small", train=8)


@pytest.fixture(scope="session")
def masked(tmp_path_factory) -> Path:
    """A folder of bright shapes with masks: 8 training and 5 validation images."""
    return write_small_masks(tmp_path_factory.mktemp("data") / "masked")


@pytest.fixture(scope="session")
def crops(tmp_path_factory) -> Path:
    """Class folders train/ and val/: 19 and 8 rectangles of two kinds, each with a bit of its surroundings."""
    folder = tmp_path_factory.mktemp("crops")
    boxes = write_small_set(folder / "boxes", train=10, val=5)
    for split, data in read_dataset(boxes).items():
        crops_of(data, folder / "crops" / split, margin=0.3, min_side=4)
    return folder / "crops"
