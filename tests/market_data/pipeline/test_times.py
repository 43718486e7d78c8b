"""Unique times: against a model that is slow and plain."""

import time

from hypothesis import given, settings
from hypothesis import strategies as st

from app.market_data.times import LEAST_EACH, UniqueTimes

TICKS = st.lists(st.tuples(st.sampled_from("AB"), st.integers(0, 12), st.integers(0, 40)), max_size=60)


@settings(max_examples=300)
@given(TICKS)
def test_each_tick_gets_the_first_free_millisecond_and_a_repeat_none(ticks: list[tuple[str, int, int]]) -> None:
    times = UniqueTimes()
    model: dict[str, dict[int, int]] = {"A": {}, "B": {}}
    for symbol, ms, number in ticks:
        digest = number * 100 + ms  # digests tell of the time too
        taken = model[symbol]
        expected = None
        if digest not in taken.values():
            expected = next(free for free in range(ms, ms + 100) if free not in taken)
            taken[expected] = digest
        assert times.place(symbol, ms, digest) == expected


@settings(max_examples=100)
@given(TICKS, st.integers(1, 8))
def test_what_is_remembered_is_bounded_and_unique(ticks: list[tuple[str, int, int]], most: int) -> None:
    times = UniqueTimes(most_each=most, most=10**6)
    recent: dict[str, list[tuple[int, int]]] = {"A": [], "B": []}
    for symbol, ms, digest in ticks:
        placed = times.place(symbol, ms, digest)
        kept = recent[symbol][-max(most, LEAST_EACH) :]
        if placed is None:
            assert digest in [known for known, _ in kept]
        else:
            assert placed >= ms
            assert placed not in [known for _, known in kept]
            recent[symbol].append((digest, placed))
    assert len(times) <= 2 * max(most, LEAST_EACH)


def test_many_symbols_share_the_memory() -> None:
    times = UniqueTimes(most_each=4096, most=10_000)
    for number in range(60_000):
        times.place(f"S{number % 100}", number // 100, number)
    assert len(times) == 10_000


def test_a_clock_that_stands_still_costs_hardly_more() -> None:
    def seconds(still: bool) -> float:
        times, began = UniqueTimes(), time.thread_time()
        placed = [times.place("A", 1000 + (0 if still else digest), digest) for digest in range(4000)]
        assert placed == list(range(1000, 5000))
        return time.thread_time() - began

    # Looking from the beginning for every tick would take some hundred times as long.
    assert min(seconds(still=True) for _ in range(3)) < 20 * min(seconds(still=False) for _ in range(3))
