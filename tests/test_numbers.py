"""The set of numbers holds what a set holds, in 8 bytes each."""

from __future__ import annotations

import random
import tracemalloc

import pytest

from steer.rows import numbers
from steer.rows.numbers import Numbers


def test_it_holds_what_a_set_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numbers, "RECENT", 7)
    rng, own, known = random.Random(0), Numbers(), set[int]()
    for number in [-(2**63), 2**63 - 1, 0, *(rng.randint(-50, 50) for _ in range(200))]:
        assert (number in own) == (number in known)
        if number not in known:
            own.add(number)
            known.add(number)
    assert all((number in own) == (number in known) for number in [*range(-60, 60), *known])
    assert len(own.sorted) + len(own.recent) == len(known)


def test_a_number_takes_eight_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numbers, "RECENT", 1000)
    tracemalloc.start()
    own = Numbers()
    for number in range(20_000):
        own.add(hash(str(number)))
    assert tracemalloc.get_traced_memory()[0] < 20_000 * 8 + 100_000
    tracemalloc.stop()
    assert hash("19999") in own
