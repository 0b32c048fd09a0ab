"""Which logits are summed at the pixels, and the probabilities of their sum."""

import pytest
import torch

from maft.errors import UserError
from maft.structures import Classification, Proposals
from maft.summed_logits import pixel_probabilities, row_logits


def test_any_logits_can_be_summed_and_none_cannot():
    proposals = Proposals(torch.zeros(1, 2, 4, 4), (4, 4), class_logits=torch.randn(1, 2, 4))
    rows = row_logits(proposals, None, 3)
    assert torch.equal(rows.logits, proposals.class_logits[..., :3]) and rows.row_class.tolist() == [0, 1, 2]
    valid = torch.tensor([[True, False]])
    found = row_logits(proposals, Classification(torch.ones(1, 2, 4), valid=valid, has_void=True), 3)
    assert found.logits.tolist() == [[[1.0] * 3, [0.0] * 3]]
    with pytest.raises(UserError, match="SUM_LOGITS needs logits of a classifier or of the proposer"):
        row_logits(Proposals(torch.zeros(1, 2, 4, 4), (4, 4)), None, 3)


def test_probabilities_of_pixels_add_up_where_every_class_has_one_text():
    logits = torch.randn(4, 3, 5)
    torch.testing.assert_close(pixel_probabilities(logits, torch.arange(4)), logits.softmax(0))
    joined = pixel_probabilities(logits, torch.tensor([0, 1, 1, 1]))
    torch.testing.assert_close(joined[1], logits.softmax(0)[1:].amax(0))
