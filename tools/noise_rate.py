"""How often maft compare calls a difference noise: of one run with itself, and of two runs with each other.

- resampled images: two bootstrap samples of one run's images, paired by their places.
- exchanged results: of two runs, each image's results exchanged with probability one half.

Neither has a difference that is more than noise. With two runs, the comparison itself is made with as many samples of
the images, to show how often a difference that is there is found.

  python tools/noise_rate.py output/maft
  python tools/noise_rate.py output/frozen output/maft --comparisons 100
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from maft.errors import ToolParser, run_tool

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from maft.evaluation.image_sums import ImageSums

    Pair = Callable[[Sequence[ImageSums], np.random.Generator], tuple[ImageSums, ImageSums]]
    Drawn = Callable[[np.random.Generator], tuple[ImageSums, ImageSums]]


def parser() -> ToolParser:
    tool = ToolParser(prog="noise_rate.py", description=__doc__)
    tool.add_argument("run", metavar="RUN", help="an OUTPUT_DIR, its inference/DATASET, or the results.json there")
    tool.add_argument("other", metavar="RUN", nargs="?", help="another on the same images")
    tool.add_argument("--dataset", metavar="NAME", help="of which dataset, where a run evaluated several")
    tool.add_argument("--comparisons", type=int, default=100, metavar="N", help="of each kind (default: 100)")
    tool.add_argument("--resamples", type=int, default=10_000, metavar="N", help="of a comparison (default: 10000)")
    tool.add_argument("--seed", type=int, default=0, help="of all samples (default: 0)")
    return tool


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parser().parse_args(argv)

    from maft.evaluation.compare import in_order_of
    from maft.evaluation.counts import read_counts
    from maft.evaluation.image_sums import image_sums
    from maft.evaluation.runs import find_results

    runs = [read_counts(find_results(run, arguments.dataset)) for run in (arguments.run, arguments.other) if run]
    if len(runs) == 2:
        runs[1] = in_order_of(*runs)
    sums = [image_sums(counts)[0] for counts in runs]
    pairs: dict[str, Pair] = {"resampled images": _drawn_twice}
    if len(sums) == 2:
        pairs |= {"exchanged results": _exchanged, "the two runs, images resampled": _both_drawn}
    for name, pair in pairs.items():
        _report(name, partial(pair, sums), sums[0].names[0], arguments.comparisons, arguments.resamples, arguments.seed)


def _report(name: str, pair: Drawn, score: str, comparisons: int, resamples: int, seed: int) -> None:
    import numpy as np

    from maft.evaluation.resampling import differences

    noise = by_interval = by_test = without_class = 0
    for number in range(comparisons):
        found = differences(*pair(np.random.default_rng((seed, number))), resamples=resamples, seed=number)
        noise += not found.significant[0]
        by_interval += bool(found.low[0] <= 0 <= found.high[0])
        by_test += bool(found.p[0] > 0.01)
        without_class += not found.significant[found.means :].any()
    print(
        f"{name}: {score} is noise in {noise} of {comparisons} comparisons (the interval alone {by_interval}, the test "
        f"alone {by_test}); no class differs in {without_class}",
        flush=True,
    )


def _of(sums: ImageSums, places: NDArray[np.int64]) -> ImageSums:
    import copy

    some = copy.copy(sums)
    some.parts = sums.parts[places]
    return some


def _drawn_twice(sums: Sequence[ImageSums], draws: np.random.Generator) -> tuple[ImageSums, ImageSums]:
    first, second = (_of(sums[0], draws.integers(0, len(sums[0]), len(sums[0]))) for _ in range(2))
    return first, second


def _both_drawn(sums: Sequence[ImageSums], draws: np.random.Generator) -> tuple[ImageSums, ImageSums]:
    places = draws.integers(0, len(sums[0]), len(sums[0]))
    return _of(sums[0], places), _of(sums[1], places)


def _exchanged(sums: Sequence[ImageSums], draws: np.random.Generator) -> tuple[ImageSums, ImageSums]:
    import numpy as np
    from scipy import sparse

    first, second = (_of(one, np.arange(len(one))) for one in sums)
    kept = draws.integers(0, 2, len(first)).astype(float)
    keep, change = sparse.diags_array(kept), sparse.diags_array(1 - kept)
    first.parts, second.parts = (
        (keep @ first.parts + change @ second.parts).tocsr(),
        (keep @ second.parts + change @ first.parts).tocsr(),
    )
    return first, second


if __name__ == "__main__":
    run_tool(main)
