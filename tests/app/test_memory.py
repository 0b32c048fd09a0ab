"""What is kept for browsers is bounded in bytes and in time."""

import time

from maft.app.memory import Memory


def test_the_least_recently_used_make_room():
    memory = Memory(most_bytes=10)
    first, second = memory.put("first", 4), memory.put("second", 4)
    assert memory.get(first) == "first"
    third = memory.put("third", 4)
    assert memory.get(second) is None
    assert (memory.get(first), memory.get(third)) == ("first", "third")


def test_the_newest_stays_however_large():
    memory = Memory(most_bytes=10)
    memory.put("small", 1)
    assert memory.get(memory.put("large", 1000)) == "large"


def test_what_is_old_is_forgotten():
    memory = Memory(seconds=0.02)
    token = memory.put("photo", 1)
    assert memory.get(token) == "photo"
    time.sleep(0.03)
    assert memory.get(token) is None


def test_names_are_not_guessed_and_may_be_dropped():
    memory = Memory()
    tokens = {memory.put(number, 1) for number in range(100)}
    assert len(tokens) == 100 and min(map(len, tokens)) >= 20
    token = next(iter(tokens))
    memory.drop(token)
    assert memory.get(token) is None and memory.get(None) is None
