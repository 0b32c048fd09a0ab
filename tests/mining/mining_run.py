"""A mining run on a drawn world, that can be killed: ``mining_run.py WORK OUTPUT [--kill-after N]``.

WORK holds ``datasets`` and ``weights.safetensors`` of an untrained proposer, see `prepare`.
"""

import argparse
import os
import signal
from pathlib import Path

import torch

from maft.building import build_model
from maft.checkpoint.io import write_safetensors
from maft.checkpoint.loading import InitialWeights
from maft.config import load_config
from maft.data.miniature import ensure_miniature
from maft.mining.folder import MiningFolder
from maft.mining.run import MiningTask, mine

CONFIG = Path(__file__).resolve().parents[2] / "configs/quickstart/mining.yaml"
IMAGES = 12


def config(work: Path, output: Path, *overrides):
    cfg = load_config(CONFIG, [
        "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", str(work / "weights.safetensors"),
        "MODEL.PROPOSER.Mask2Former.NUM_QUERIES", "6", "OUTPUT_DIR", str(output), *overrides,
    ])  # fmt: skip
    cfg.freeze()
    return cfg


def prepare(work: Path) -> None:
    ensure_miniature(work / "datasets/miniature", {"train": IMAGES, "val": 4})
    torch.manual_seed(0)
    model = build_model(config(work, work), InitialWeights())
    with torch.no_grad():
        # Untrained masks are near 0.5 everywhere; without spread, one rounding error would decide about pixels.
        for name, parameter in model.named_parameters():
            if "mask_embed" in name:
                parameter.mul_(3)
    write_safetensors(work / "weights.safetensors", model.state_dict())


def task(work: Path) -> MiningTask:
    return MiningTask("proposals", str(work / "datasets/miniature/train/captions.json"), captions_per_image=5)


def kill_in_the_middle_of(count: int) -> None:
    """The process dies after the regions of image number ``count`` were written and before its shard was."""
    finish = MiningFolder._shard
    shards = []

    def shard(self, position, image):
        path = finish(self, position, image)
        if any((self.root / "regions").rglob(f"{image}_*.png")) and not path.exists():
            shards.append(path)
            if len(shards) > count:
                os.kill(os.getpid(), signal.SIGKILL)
        return path

    MiningFolder._shard = shard


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--kill-after", type=int, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    kill_in_the_middle_of(arguments.kill_after)
    mine(config(arguments.work, arguments.output), task(arguments.work))


if __name__ == "__main__":
    main()
