"""Strips of score maps against whole maps."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from maft.layers import score_maps
from maft.layers.score_maps import Tile, View, averaged_strips, best_classes, resized_rows, source_rows, window_starts


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("before, after", [((7, 9), (23, 31)), ((23, 31), (7, 9)), ((7, 9), (7, 9)), ((1, 1), (5, 3))])
def test_rows_are_those_of_the_whole_resized_map(before, after, align_corners):
    values = torch.randn(3, *before)
    expected = F.interpolate(values[None], after, mode="bilinear", align_corners=align_corners)[0]
    for start, stop in [(0, after[0]), (0, 1), (2, 5), (after[0] - 1, after[0])]:
        source, places = source_rows(before[0], after[0], range(start, stop), align_corners)
        given = values[:, source.start : source.stop]
        torch.testing.assert_close(
            resized_rows(given, places, after[1], align_corners), expected[:, start:stop], atol=1e-5, rtol=0
        )


def test_windows_cover_a_side_and_the_last_one_ends_with_it():
    assert window_starts(640, 224, 2 / 3) == [0, 75, 150, 225, 300, 375, 416]
    assert window_starts(300, 100, 0.7) == [0, 30, 60, 90, 120, 150, 180, 200]
    assert window_starts(10, 5, 0.0) == [0, 5]
    assert window_starts(11, 5, 0.0) == [0, 5, 6]
    assert window_starts(5, 5, 0.5) == window_starts(3, 5, 0.5) == [0]


def _tile(top, left, height, width, *, queries=4, classes=3, **options):
    padded = (-(-height // 8) * 8, -(-width // 8) * 8)
    masks = torch.randn(queries, padded[0] // 4, padded[1] // 4)
    return Tile(torch.rand(queries, classes), masks, padded, top, left, height, width, are_logits=True, **options)


def _whole(tile):
    """(C, height, width) scores of a tile, all at once."""
    masks = F.interpolate(tile.masks[None], tile.padded_size, mode="bilinear", align_corners=tile.align_corners)[0]
    soft = masks[:, : tile.height, : tile.width].sigmoid()
    shown = (soft > tile.cut).float() if tile.cut else soft
    return sum(tile.scores[q, :, None, None] * shown[q] for q in range(len(shown)))


def _resized(values, size):
    return F.interpolate(values[None], size, mode="bilinear", align_corners=False)[0]


@pytest.mark.parametrize("strip_bytes", [1, 2000, 2**26])
def test_strips_are_the_mean_of_all_views_at_output_size(monkeypatch, strip_bytes):
    monkeypatch.setattr(score_maps, "_STRIP_BYTES", strip_bytes)
    size = (29, 37)
    plain, flipped = _tile(0, 0, 13, 17), _tile(0, 0, 45, 61, cut=0.4, align_corners=True)
    first = _tile(0, 0, 13, 17)
    # Fewer than classes, and of a larger view than the output: these are resized in place of scores.
    few, few_cut = _tile(0, 0, 45, 61, queries=2), _tile(0, 0, 45, 61, queries=2, cut=0.4)
    tiles = [_tile(top, left, 11, 12) for top in (0, 5, 10) for left in (0, 6, 11)]
    views = [
        View((13, 17), [(False, [plain]), (True, [first])]),
        View((45, 61), [(True, [flipped])]),
        View((13, 17), [(False, [first])], resize_before=True),
        View((21, 23), [(True, tiles)]),
        View((45, 61), [(False, [few]), (True, [few_cut])]),
    ]
    total, count = torch.zeros(3, 21, 23), torch.zeros(21, 23)
    for tile in tiles:
        for y in range(tile.height):
            for x in range(tile.width):
                total[:, tile.top + y, tile.left + x] += _whole(tile)[:, y, x]
                count[tile.top + y, tile.left + x] += 1
    masks = F.interpolate(first.masks[None], first.padded_size, mode="bilinear", align_corners=False)[0]
    before = torch.einsum("qc,qhw->chw", first.scores, _resized(masks[:, :13, :17], size).sigmoid())
    maps = [
        _resized(_whole(plain), size),
        _resized(_whole(first), size).flip(-1),
        _resized(_whole(flipped), size).flip(-1),
        before,
        _resized(total / count, size).flip(-1),
        _resized(_whole(few), size),
        _resized(_whole(few_cut), size).flip(-1),
    ]
    strips = list(averaged_strips(views, size))
    assert [row for rows, _ in strips for row in rows] == list(range(29))
    torch.testing.assert_close(torch.cat([scores for _, scores in strips], dim=1), sum(maps) / 7, atol=1e-5, rtol=0)


_A_LARGE_PHOTOGRAPH = """
from itertools import islice
import torch
from maft.layers.score_maps import Tile, View, averaged_strips

def memory(entry):
    return int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith(entry)))

def seen(height, width):
    masks = torch.randn(100, height // 4, width // 4)
    return [Tile(torch.rand(100, 847), masks, (height, width), 0, 0, height, width, True)]

views = [View(size, [(False, seen(*size)), (True, seen(*size))]) for size in ((320, 427), (640, 853), (1120, 1493))]
before = memory("VmRSS")
for rows, scores in islice(averaged_strips(views, (3000, 4000)), 2):
    assert scores.shape == (847, len(rows), 4000)
print(memory("VmHWM") - before)
"""


def test_the_scores_of_a_large_photograph_are_never_in_memory_at_once():
    done = subprocess.run([sys.executable, "-c", _A_LARGE_PHOTOGRAPH], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # Kilobytes; one map of all classes at this size has 40 GB.
    assert int(done.stdout) < 600_000


@pytest.mark.parametrize("classes", [1, 255, 256, 257, 1000])
def test_the_best_of_many_classes_is_that_of_the_plain_maximum_ties_included(classes):
    scores = torch.randint(0, 40, (classes, 9, 11)) / 40
    best, index = best_classes(scores)
    expected = scores.max(dim=0)
    assert torch.equal(best, expected.values)
    assert torch.equal(index, expected.indices)
