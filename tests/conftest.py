"""Fixtures shared by all tests."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


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
