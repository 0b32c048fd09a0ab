"""The written list of what makes the host wait for a GPU, and why; everything else is a fault."""

from host_reads import HostReads

# By function. A list that grows is a program that grows slow.
IN_TRAINING = {
    "matching.py::HungarianMatcher.__call__": "the assignment is scipy's: one copy for all layers and images of a step",
    "matching.py::ground_truth_slots": "a random subset is drawn of as many masks as have a pixel, as released",
    "matching.py::match_by_iou": "the same, of as many pairs as overlap",
    "losses/balanced_cross_entropy.py::BalancedCrossEntropyLoss.forward": "the mean is over the classes that occur",
    "losses/balanced_cross_entropy.py::balanced_cross_entropy": "the same",
    "losses/balanced_cross_entropy.py::_group_means": "the same",
    "proposals/eomt.py::EoMT.masked_shares": "how far annealing has come decides which blocks are masked",
    "clip/prompt_learner.py::PromptLearner.embedded": "how many words the longest name of a step has",
}
IN_RESULTS = {
    "matching.py::ground_truth_slots": IN_TRAINING["matching.py::ground_truth_slots"],
    "proposals/eomt.py::EoMT.masked_shares": IN_TRAINING["proposals/eomt.py::EoMT.masked_shares"],
    "clip/prompt_learner.py::PromptLearner.embedded": IN_TRAINING["clip/prompt_learner.py::PromptLearner.embedded"],
    "clip/vocabulary.py::_warn_of_twins": "the texts of a vocabulary are compared once, when they are encoded",
    "proposals/sam.py::SAM._grid_masks": "masks below the thresholds are dropped before the next points are decoded",
    "proposals/sam.py::SAM.automatic_masks": "how many masks are left decides the size of what follows",
    "proposals/sam3.py::SAM3._found": "masks below the threshold are dropped before those of the next words are made",
    "proposals/sam3.py::SAM3._of_words": "the library's text tower looks whether words are padded",
    "proposals/universal_images.py::Preparation._add_geometry": "where its processor pads decides the sizes of masks",
    "classifiers/masked_crops.py::MaskedCrops.regions": "CLIP runs once a mask: empty ones and equal ones are left out",
    "classifiers/masked_crops.py::MaskedCrops.encode_regions": "the same",
    "layers/crops.py::first_of_equal": "the same",
    "layers/crops.py::crop_regions": "boxes of one size are cut together, so that their sizes must be known",
    "classifiers/roi_align_crops.py::RoIAlignCrops.regions": "CLIP runs once a mask: empty ones are left out",
    "layers/score_maps.py::Tile.summing": "masks that say nothing are not summed over the pixels",
    "summed_logits.py::pixel_probabilities": "how many classes the texts have",
    "inference.py::panoptic_inference": "the segments of a panoptic result are a list of the host's",
    "inference.py::instance_inference": "one mask of several names is resized once",
    "inference.py::ResizedMasks.selected": "masks below the thresholds are not resized",
}


def surprises(reads: HostReads, allowed: dict[str, str]) -> list[tuple[str, str]]:
    """Function and operation of every wait that the list does not name."""
    return sorted(place for place in reads.found if place[0] not in allowed)
