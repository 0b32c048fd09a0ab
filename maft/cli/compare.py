"""Compare two evaluations of the same images, or add up one again from the counts of its images.

With two runs: differences of means, classes and images, with intervals, and whether they are noise. With one run: its
table, added up from the counts of each image, and whether results.json has the same numbers. No model is needed, nor
the images.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from maft.errors import ToolParser

EXAMPLES = """examples:
  maft compare output/frozen output/maft                    is the second better than the first?
  maft compare output/frozen output/maft --output comparison.json
  maft compare output/maft                                  add up its table again
"""


def parser() -> ToolParser:
    tool = ToolParser(prog="maft compare", description=__doc__, epilog=EXAMPLES)
    tool.add_argument("run", metavar="RUN", help="an OUTPUT_DIR, its inference/DATASET, or the results.json there")
    tool.add_argument("other", metavar="RUN", nargs="?", help="what it is compared with, likewise")
    tool.add_argument("--dataset", metavar="NAME", help="of which dataset, where a run evaluated several")
    tool.add_argument("--output", type=Path, metavar="FILE", help="write all numbers here too, as JSON")
    return tool


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)

    from maft.evaluation.compare import compare_runs, comparison_json, comparison_text
    from maft.evaluation.runs import find_results
    from maft.files import write_json_atomic

    folder = find_results(arguments.run, arguments.dataset)
    if arguments.other is None:
        return _add_up(folder, arguments.output)
    comparison = compare_runs(folder, find_results(arguments.other, arguments.dataset))
    print(comparison_text(comparison))
    if arguments.output:
        write_json_atomic(arguments.output, comparison_json(comparison))
    return 0


def _add_up(folder: Path, output: Path | None) -> int:
    """Prints the table; 1 where results.json has other numbers."""
    from maft.evaluation.compare import added_up
    from maft.evaluation.report import numbers, results_table
    from maft.files import write_json_atomic

    results, differing, uncounted = added_up(folder)
    print(results_table(results))
    if output:
        write_json_atomic(output, {"results": numbers(results)})
    total = sum(map(len, results.values()))
    if uncounted:
        print(f"Not added up, as no counts of images are kept: {', '.join(uncounted)}.")
    if not differing:
        print(f"All {total} numbers of {', '.join(results)} are those of {folder / 'results.json'}.")
        return 0
    task, metric, ours, stated = differing[0]
    print(
        f"{len(differing)} of {total} numbers are not those of {folder / 'results.json'}; the first is {metric} of "
        f"{task}: {ours:.6f} added up, {stated:.6f} there."
    )
    return 1
