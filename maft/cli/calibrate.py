"""Measure on held-out images how sure a model is, so that it can answer "unknown" with a bound on false alarms.

Writes calibration.json beside the checkpoint, or with --output a whole checkpoint with it. Then maft predict with
--alpha 0.1 answers at most a tenth of the words that an image lacks, on average over images and words like these.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from maft.cli.arguments import split_overrides
from maft.errors import ToolParser, UserError

if TYPE_CHECKING:
    from maft.calibration import Calibration
    from maft.evaluation.calibrate import GroupMeasured
    from maft.predictor.calibrating import Report

EXAMPLES = """examples:
  maft calibrate --model output/quickstart/maft/model_final --dataset miniature_val
  maft calibrate --model miniature --dataset miniature_val --absent cat dog horse --output output/calibrated
  maft calibrate --model maft-vitb16 --dataset ade20k_150_val --images 500 --output output/maft-vitb16
  maft calibrate --model output/my_run/model_final --dataset ade20k_150_val TEST.SLIDING_WINDOW.ENABLED True

A calibration is that of one config: give maft predict the same overrides (KEY VALUE ...), or the folder of --output,
which holds them.
"""


def parser() -> ToolParser:
    tool = ToolParser(prog="maft calibrate", description=__doc__, epilog=EXAMPLES)
    tool.add_argument(
        "--model", required=True, metavar="MODEL", help="a checkpoint, a released model, or ORG/NAME of the hub"
    )
    tool.add_argument("--dataset", required=True, metavar="NAME", help="held-out images with label maps")
    tool.add_argument("--images", type=int, metavar="N", help="so many of them, spread over the dataset (default: all)")
    tool.add_argument(
        "--absent",
        nargs="+",
        default=[],
        metavar="WORD",
        help="words to offer beside its classes, in no image",
    )
    tool.add_argument(
        "--output", type=Path, metavar="FOLDER", help="write the checkpoint with its calibration here, not beside it"
    )
    tool.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1, mps (default: the config's)")
    tool.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config overrides, such as INPUT.MIN_SIZE_TEST 800")
    return tool


def main(argv: Sequence[str] | None = None) -> None:
    tool = parser()
    arguments = tool.parse_intermixed_args(argv)
    overrides = arguments.opts + split_overrides(arguments, ["absent"])
    if arguments.images is not None and arguments.images < 1:
        tool.error(f"argument --images: {arguments.images} is no number of images")

    from maft.calibration import FILE, calibration_path
    from maft.predictor import Predictor
    from maft.predictor.calibrating import calibrate, held_out, is_shared

    predictor = Predictor.from_pretrained(arguments.model, overrides, device=arguments.device)
    target = calibration_path(Path(predictor.cfg.MODEL.WEIGHTS))
    if arguments.output is None and is_shared(arguments.model):
        raise UserError(
            f"{arguments.model} is kept for everybody who asks for it by this name: say with --output where to write "
            "the model with its calibration."
        )
    report = calibrate(predictor, held_out(predictor, arguments.dataset, arguments.images), arguments.absent)
    if arguments.output is not None:
        target = predictor.save_pretrained(arguments.output) / FILE
    report.calibration.write(target)
    print(described(report))
    print(f"\nWritten: {target}")


def described(report: Report) -> str:
    """What a calibration says, as tables."""
    from tabulate import tabulate

    calibration, confidence = report.calibration, report.calibration.confidence
    rows = [
        _row(calibration, alpha, group, None if found is None else found.get(group))
        for alpha, found in report.measured.items()
        for group in calibration.groups
    ]
    columns = ["alpha", "words", "least confidence", "false alarms %", "of pixels %", "mIoU before", "mIoU after"]
    images = " and ".join(
        f"{curve.images} images that lack {group} words" for group, curve in calibration.groups.items()
    )
    return (
        f"Confidence: temperature {confidence.temperature:.3f} from {calibration.confidence_images} images of "
        f"{calibration.dataset}, then isotonic regression ({len(confidence.knots)} knots) from all; calibration error "
        f"on the others {100 * report.error_before:.1f} % before, {100 * report.error_after:.1f} % after, each fifth "
        "of them with what is fitted to the rest.\n"
        f"Thresholds from {images}. Rates and mIoU: thresholds from half of these images, used on the other half.\n\n"
        + tabulate(rows, headers=columns, tablefmt="github", disable_numparse=True, stralign="right")
    )


def _row(calibration: Calibration, alpha: float, group: str, found: GroupMeasured | None) -> list[str]:
    try:
        threshold = f"{calibration.groups[group].threshold(alpha):.3f}"
    except UserError:
        threshold = "too few images"
    if found is None:
        return [f"{alpha:g}", group, threshold, *["-"] * 4]
    shares = [found.false_alarms, found.pixels, found.before, found.after]
    return [f"{alpha:g}", group, threshold, *(f"{100 * share:.1f}" for share in shares)]
