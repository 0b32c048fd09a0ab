"""The matching of one layer image by image, as papers and releases state it."""

import torch

from maft.structures import Targets


def matched(matcher, class_logits, mask_logits, targets):
    """Per image the places of proposals and of targets within the image, proposals ascending."""
    counts = [len(target.labels) for target in targets]
    truth = Targets(*(torch.cat([getattr(target, name) for target in targets]) for name in ("labels", "masks")))
    points = [torch.rand(len(counts), matcher.num_points, 2)] if matcher.num_points else None
    ((proposals, wanted),) = matcher([(class_logits, mask_logits)], truth, counts, points)
    queries, start, found = mask_logits.shape[1], 0, []
    for image, count in enumerate(counts):
        here = proposals // queries == image
        found.append((proposals[here] - image * queries, wanted[here] - start))
        start += count
    return found
