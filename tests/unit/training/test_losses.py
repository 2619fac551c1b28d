from functools import partial

import pytest
import torch
from torch.nn import functional as F

from nonlocalnet.training.losses import classification_loss, mixup_loss


def test_label_smoothing_is_the_mixture_of_target_and_uniform():
    torch.manual_seed(0)
    logits, target = torch.randn(5, 4).double(), torch.tensor([0, 3, 1, 1, 2])
    share = 0.9 * F.one_hot(target, 4).double() + 0.1 / 4
    expected = -(share * logits.log_softmax(1)).sum(1).mean()
    found = classification_loss(logits, target, label_smoothing=0.1)
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)


def test_label_smoothing_of_many_labels_moves_both_ends():
    logits, target = torch.randn(5, 4).double(), torch.randint(2, (5, 4)).double()
    p, soft = logits.sigmoid(), 0.9 * target + 0.05
    expected = -(soft * p.log() + (1 - soft) * (1 - p).log()).mean()
    found = classification_loss(logits, target, multi_label=True, label_smoothing=0.1)
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("many", [False, True])
def test_mixed_pairs(many):
    torch.manual_seed(0)
    clips = torch.randn(6, 3).double()
    target = torch.randint(2, (6, 4)).double() if many else torch.tensor([0, 1, 2, 3, 0, 1])
    weight = torch.randn(3, 4).double()
    loss_of = partial(classification_loss, multi_label=many)
    torch.manual_seed(1)
    loss, logits = mixup_loss(lambda x: x @ weight, loss_of, clips, target, 0.4)
    torch.manual_seed(1)
    share = float(torch.distributions.Beta(0.4, 0.4).sample())
    assert 0.01 < share < 0.99
    torch.testing.assert_close(logits, (share * clips + (1 - share) * clips.flip(0)) @ weight)
    # both losses are linear in a soft target, so mixing losses is mixing targets
    hot = target if many else F.one_hot(target, 4).double()
    soft = share * hot + (1 - share) * hot.flip(0)
    expected = loss_of(logits, soft)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-9)


def test_no_mixing_is_the_plain_loss():
    clips, target = torch.randn(6, 3), torch.tensor([0, 1, 2, 3, 0, 1])
    weight = torch.randn(3, 4)
    state = torch.get_rng_state()
    loss, _ = mixup_loss(lambda x: x @ weight, classification_loss, clips, target, 0.0)
    assert torch.equal(loss, F.cross_entropy(clips @ weight, target))
    assert torch.equal(torch.get_rng_state(), state)
