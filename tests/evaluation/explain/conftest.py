"""What the shipped model says of drawn scenes, beside the truth; and what masks like the truth would say."""

import pytest
import torch

SCENES = 16


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """Folder of datasets with drawn scenes."""
    from maft.miniature import materialise

    root = tmp_path_factory.mktemp("datasets")
    materialise(root / "miniature", "val", SCENES)
    return root


@pytest.fixture(scope="session")
def shipped(world):
    """(rule, evidence of each scene, evaluator that has counted them) of the shipped model."""
    from maft.data.catalog import dataset
    from maft.data.mappers import SegmentationMapper
    from maft.data.records import load_records
    from maft.evaluation.explain.evidence import Evidence, Rule
    from maft.evaluation.semantic import SemanticEvaluator, test_vocabulary
    from maft.predictor import Predictor

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETECTRON2_DATASETS", str(world))
        predictor = Predictor.from_pretrained("miniature")
        cfg, model = predictor.cfg, predictor.model
        row = dataset("miniature_val")
        evaluator = SemanticEvaluator.of_dataset(cfg, row)
        words, _ = test_vocabulary(cfg, row, "miniature_val")
        mapper = SegmentationMapper.from_config(cfg, False, datasets=["miniature_val"])
        evidence = []
        with torch.no_grad():
            for record in map(mapper, load_records(["miniature_val"], "test")):
                images = model.padded([record])
                proposals = model.propose(images, [record], words)
                named = model.classify(images, proposals, words)
                evaluator.process([record], model.combine(images, proposals, named, [record], words))
                truth = evaluator.positions(evaluator.truth(record)).long()
                evidence.append(Evidence(record["file_name"], proposals, named, images.sizes[0], truth))
    return Rule(model.ensemble, model.inference_options, words), evidence, evaluator


@pytest.fixture(scope="session")
def true_world(shipped):
    """(rule, evidence) of masks like the truth, of which proposer and classifier both know the names."""
    from dataclasses import replace

    from maft.structures import Classification, Proposals

    rule, evidence, _ = shipped
    generator = torch.Generator().manual_seed(0)
    true = []
    for one in evidence:
        labels = one.truth[one.truth >= 0].unique()
        masks = 16.0 * (one.truth == labels[:, None, None]).float() - 8
        classifier = torch.randn(1, len(labels), len(rule.vocabulary), generator=generator)
        proposer = torch.randn(1, len(labels), len(rule.vocabulary) + 1, generator=generator)
        for logits in (classifier, proposer):
            logits[0, torch.arange(len(labels)), labels] += 6
        height, width = one.truth.shape
        proposals = Proposals(masks[None], (height, width), class_logits=proposer)
        true.append(replace(one, proposals=proposals, classification=Classification(classifier), size=(height, width)))
    return rule, true
