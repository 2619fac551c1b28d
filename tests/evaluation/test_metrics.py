import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, balanced_accuracy_score, top_k_accuracy_score

from nonlocalnet.evaluation.metrics import (
    average_precision,
    mean_average_precision,
    mean_class_accuracy,
    top_k_accuracy,
)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_average_precision_is_scikit_learns_with_ties_too(seed, ties):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(40, generator=generator, dtype=torch.float64)
    scores = (scores * 5).round() if ties else scores
    target = (torch.rand(40, generator=generator) < 0.3).long()
    target[seed % 40] = 1
    expected = average_precision_score(target.numpy(), scores.numpy())
    assert average_precision(scores, target) == pytest.approx(expected, rel=1e-12)


def test_mean_average_precision_leaves_out_classes_without_positives():
    scores = torch.rand(30, 4, generator=torch.Generator().manual_seed(1))
    target = (torch.rand(30, 4, generator=torch.Generator().manual_seed(2)) < 0.4).long()
    target[:, 2] = 0
    kept = [0, 1, 3]
    expected = average_precision_score(target[:, kept].numpy(), scores[:, kept].numpy())
    assert mean_average_precision(scores, target) == pytest.approx(expected, rel=1e-6)
    assert math.isnan(mean_average_precision(scores, torch.zeros(30, 4)))


@pytest.mark.parametrize("k", [1, 3, 5])
def test_top_k_is_scikit_learns(k):
    scores = torch.rand(50, 6, generator=torch.Generator().manual_seed(k))
    target = torch.arange(50) % 6
    expected = top_k_accuracy_score(target.numpy(), scores.numpy(), k=k)
    assert top_k_accuracy(scores, target, k) == pytest.approx(expected)


def test_more_than_all_classes_is_all():
    assert top_k_accuracy(torch.rand(4, 3), torch.zeros(4, dtype=torch.long), k=5) == 1


def test_mean_class_accuracy_is_scikit_learns():
    scores = torch.rand(60, 4, generator=torch.Generator().manual_seed(0))
    target = torch.randint(4, (60,), generator=torch.Generator().manual_seed(3))
    expected = balanced_accuracy_score(target.numpy(), scores.argmax(1).numpy())
    assert mean_class_accuracy(scores, target) == pytest.approx(expected)
