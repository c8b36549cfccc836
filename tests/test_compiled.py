"""Compiled code works where there is no place to keep it, too."""

from numba.core import caching

from detseg.kernels import njit


def double(x: float) -> float:
    return 2 * x


def test_kept_on_disk() -> None:
    assert njit()(double)._cache.cache_path


def test_without_a_place_for_the_cache(monkeypatch) -> None:
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    assert njit()(double)(4.0) == 8.0
    assert njit("float64(float64)")(double)(4.0) == 8.0
