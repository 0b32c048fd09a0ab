"""An explanation made by hand, of images of the miniature world that are written into a folder."""

import numpy as np
from PIL import Image
from pycocotools import mask as run_lengths

from maft.evaluation.explain.explanation import (
    Calibration,
    ClassLoss,
    Confusion,
    Explanation,
    ImageLoss,
    MaskAccuracy,
    MaskRecall,
    NameRanks,
    Parts,
    ReliabilityBin,
    SimilarityBin,
    WorstMask,
)
from maft.miniature import miniature_classes, render_scene

SCRIPT = "<script>document.title='run'</script>"


def parts(loss, ensemble=0.1):
    """Five parts that add up to a loss."""
    return Parts(loss, 0.3 * loss, 0.4 * loss, ensemble * loss, 0.15 * loss, (0.15 - ensemble) * loss)


def counts(mask):
    """Run lengths as an explanation holds them."""
    found = run_lengths.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(found["size"]), "counts": found["counts"].decode("ascii")}


def worst(folder, number):
    """Something of a drawn scene that was taken for something else."""
    scene = render_scene(number, "val")
    file = folder / f"scene_{number}.png"
    Image.fromarray(scene.image).save(file)
    labels, sizes = np.unique(scene.sem_seg[scene.sem_seg < 24], return_counts=True)
    lost = scene.sem_seg == labels[sizes.argsort()[len(sizes) // 2]]
    names = miniature_classes().names
    true = names[int(labels[sizes.argsort()[len(sizes) // 2]])]
    scores = {"classifier": {"cloud": 0.6, "grass": 0.2, true: 0.1}, "final": {"cloud": 0.7, true: 0.1}}
    shifted = np.roll(lost, 3, axis=1)
    return WorstMask(str(file), "names", true, "cloud", int(lost.sum()), counts(lost), counts(shifted), "cloud", scores)


def explanation(folder, *, more_name=SCRIPT, count=24):
    """Of the classes of the miniature world and one whose name is ``more_name``."""
    names = [*miniature_classes().names[: count - 1], more_name]
    thresholds = tuple(np.linspace(0.5, 0.95, 10).round(2).tolist())
    recall = tuple((1.0 - 0.9 * (t - 0.45) ** 1.2) for t in thresholds)
    bins = [
        ReliabilityBin(
            k / 10, (k + 1) / 10, 0 if k == 0 else 100 * k, (k + 0.5) / 10 if k else np.nan, 0.09 * k or np.nan
        )
        for k in range(10)
    ]
    half = names[: len(names) // 2]
    return Explanation(
        facts={
            "dataset": "miniature_val",
            "protocol": "generalized",
            "images": 12,
            "provenance": {"config": "9f" * 32, "data": "0a" * 32, "weights": "be" * 32},
        },
        miou=54.8,
        total=parts(45.2),
        groups={"seen": parts(30.0), "unseen": parts(70.0, ensemble=-0.2)},
        classes=tuple(
            ClassLoss(name, name not in half, 1000 + place, parts(4.0 * place)) for place, name in enumerate(names)
        ),
        images=tuple(ImageLoss(f"/data/images/scene_{place}.png", parts(3.0 * place)) for place in range(20)),
        mask_recall=(
            MaskRecall("class region", 90, thresholds, recall, {names[0]: recall}, {names[0]: 9}),
            MaskRecall("panoptic segment", 140, thresholds, tuple(0.9 * r for r in recall), {}, {}),
        ),
        name_ranks=NameRanks((50, 20, 10, 5, 3, 2, 1, 1, 0, 0, 1), (5000, 1500, 900, 300, 90, 80, 70, 0, 0, 0, 20)),
        confusions=(
            Confusion("floor-wood", "floor-other", 900, 0.4, 0.93, "parent"),
            Confusion("rug", "carpet", 700, 0.3, 0.88, "synonym"),
            Confusion(names[0], more_name, 120, 0.1, None, "other"),
        ),
        similarity=tuple(SimilarityBin(0.4 + 0.1 * k, 0.5 + 0.1 * k, 40 - 6 * k, 0.01 * 2**k) for k in range(6)),
        calibration=Calibration(tuple(bins), 0.081),
        mask_accuracy=MaskAccuracy(70.0, 81.5, {name: 100 - 3.0 * place for place, name in enumerate(names)}),
        worst_masks=tuple(worst(folder, number) for number in range(6)),
    )
