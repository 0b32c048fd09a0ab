"""One predictor, many threads, each with words of its own."""

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from maft.predictor import Predictor

THREADS, CALLS = 8, 50
# Words of several calls occur in others too, beside other words: what is kept of them must not depend on those.
NAMES = ["bear", "grass", "sky", "brick", "gift", "carrot", "a red disc", "boat"]


def asked(thread: int, call: int) -> tuple[list[str], list[str] | None]:
    """Words and things of a call, one of three of its thread."""
    count = 1 + (thread + call % 3) % 4
    names = [NAMES[(thread + 3 * step) % len(NAMES)] for step in range(count)]
    return [*names, f"word of {thread}"], (names if call % 3 == 2 else None)


def arrays(prediction):
    yield from (prediction.labels, prediction.confidence)
    if prediction.segment_ids is not None:
        yield prediction.segment_ids
        yield np.array([segment["score"] for segment in prediction.segments])
        yield np.array([instance.score for instance in prediction.instances])


def test_many_threads_get_what_one_gets_bit_for_bit(tiny_configs, monkeypatch):
    monkeypatch.setattr("maft.clip.vocabulary._MOST_TABLES", 2)  # they push each other out all the time
    monkeypatch.setattr("maft.clip.vocabulary.MOST_TEXTS", 6)
    images = np.random.default_rng(0).integers(0, 256, (THREADS, 20, 32, 3), dtype=np.uint8)
    # A low temperature, with which each word tells in the last bits.
    small = ["INPUT.MIN_SIZE_TEST", "32", "MODEL.CLASSIFIER.LOGIT_SCALE", "5.0"]
    alone, shared = (Predictor.from_config(tiny_configs / "maft.yaml", small) for _ in range(2))
    # Without weights of their own, both drew the same random ones only if the seed was the same.
    shared.model.load_state_dict(alone.model.state_dict())
    expected = {
        (thread, call): list(arrays(alone(images[thread], *asked(thread, call))))
        for thread in reversed(range(THREADS))
        for call in range(3)
    }
    differ = {tuple(map(bytes, found)) for found in expected.values()}
    assert len(differ) == len(expected), "the calls must be told apart"

    def calls(thread):
        for call in range(CALLS):
            words, things = asked(thread, call)
            found = shared(images[thread], words, things)
            assert found.class_names == tuple(words)
            for one, other in zip(arrays(found), expected[thread, call % 3], strict=True):
                np.testing.assert_array_equal(one, other)
        return CALLS

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(THREADS) as pool:
            assert sum(pool.map(calls, range(THREADS))) == THREADS * CALLS
    finally:
        sys.setswitchinterval(interval)
