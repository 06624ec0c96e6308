"""When a cache that has nothing is looked into."""

from services.mesh.bypass import AdaptiveBypass


def looks(bypass: AdaptiveBypass, times: int, *, found: bool) -> int:
    """How many of so many askers looked, all to the same end."""
    looked = 0
    for _ in range(times):
        if bypass.looks():
            looked += 1
            bypass.found(found)
    return looked


def test_a_cache_that_has_what_is_asked_for_is_looked_into_each_time() -> None:
    bypass = AdaptiveBypass()
    assert looks(bypass, 1_000, found=True) == 1_000


def test_after_64_lookups_in_vain_only_one_of_16_is_made() -> None:
    bypass = AdaptiveBypass()
    assert looks(bypass, 64, found=False) == 64
    assert looks(bypass, 1_600, found=False) == 100


def test_as_soon_as_something_is_found_each_lookup_is_made_again() -> None:
    bypass = AdaptiveBypass()
    looks(bypass, 1_000, found=False)
    assert looks(bypass, 16, found=True) >= 1
    assert looks(bypass, 64, found=False) == 64


def test_lookups_that_find_something_now_and_then_go_on() -> None:
    bypass = AdaptiveBypass()
    for _ in range(20):
        assert looks(bypass, 63, found=False) == 63
        assert looks(bypass, 1, found=True) == 1
