import math

import torch
import torch.nn.functional as F

from maft.region_clip import contrastive_loss


def test_the_definition():
    images, texts = (F.normalize(torch.randn(4, 8, dtype=torch.float64), dim=-1) for _ in range(2))
    scale = torch.tensor(20.0, dtype=torch.float64)
    expected = 0.0
    for i in range(4):
        rows = [math.exp(20 * float(images[i] @ texts[j])) for j in range(4)]
        columns = [math.exp(20 * float(images[j] @ texts[i])) for j in range(4)]
        expected -= (math.log(rows[i] / sum(rows)) + math.log(columns[i] / sum(columns))) / 8
    assert math.isclose(float(contrastive_loss(images, texts, scale)), expected, rel_tol=1e-12)


def test_equal_texts_stay_negatives():
    images = torch.eye(2)
    texts = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert contrastive_loss(images, texts, torch.tensor(1.0)) > 0.5
