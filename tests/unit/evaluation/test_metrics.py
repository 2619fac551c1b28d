import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nonlocalnet.evaluation.metrics import (
    Metric,
    average_precision,
    confusion_matrix,
    mean_average_precision,
    mean_class_accuracy,
    top_k_accuracy,
)


def sklearn():
    """scikit-learn's metrics; its import takes seconds, which every worker would spend."""
    import sklearn.metrics

    return sklearn.metrics


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_average_precision_is_scikit_learns_with_ties_too(seed, ties):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(40, generator=generator, dtype=torch.float64)
    scores = (scores * 5).round() if ties else scores
    target = (torch.rand(40, generator=generator) < 0.3).long()
    target[seed % 40] = 1
    expected = sklearn().average_precision_score(target.numpy(), scores.numpy())
    assert average_precision(scores, target) == pytest.approx(expected, rel=1e-12)


def test_mean_average_precision_leaves_out_classes_without_positives():
    scores = torch.rand(30, 4, generator=torch.Generator().manual_seed(1))
    target = (torch.rand(30, 4, generator=torch.Generator().manual_seed(2)) < 0.4).long()
    target[:, 2] = 0
    kept = [0, 1, 3]
    expected = sklearn().average_precision_score(target[:, kept].numpy(), scores[:, kept].numpy())
    assert mean_average_precision(scores, target) == pytest.approx(expected, rel=1e-6)
    assert math.isnan(mean_average_precision(scores, torch.zeros(30, 4)))


@pytest.mark.parametrize("k", [1, 3, 5])
def test_top_k_is_scikit_learns(k):
    scores = torch.rand(50, 6, generator=torch.Generator().manual_seed(k))
    target = torch.arange(50) % 6
    expected = sklearn().top_k_accuracy_score(target.numpy(), scores.numpy(), k=k)
    assert top_k_accuracy(scores, target, k) == pytest.approx(expected)


def test_more_than_all_classes_is_all():
    assert top_k_accuracy(torch.rand(4, 3), torch.zeros(4, dtype=torch.long), k=5) == 1


def test_mean_class_accuracy_is_scikit_learns():
    scores = torch.rand(60, 4, generator=torch.Generator().manual_seed(0))
    target = torch.randint(4, (60,), generator=torch.Generator().manual_seed(3))
    expected = sklearn().balanced_accuracy_score(target.numpy(), scores.argmax(1).numpy())
    assert mean_class_accuracy(scores, target) == pytest.approx(expected)


def official_charades(scores, target):
    """AP per class as Charades_v1_classify.m: mean precision at the positives, in file order."""
    ap = []
    for k in range(target.shape[1]):
        order = np.argsort(-scores[:, k], kind="stable")
        hit = target[order, k] == 1
        precision = np.cumsum(hit) / np.arange(1, len(hit) + 1)
        ap.append(precision[hit].sum() / hit.sum() if hit.any() else np.nan)
    return np.array(ap)


@pytest.mark.parametrize("seed", range(5))
def test_mean_average_precision_is_that_of_the_official_script_of_charades(seed):
    rng = np.random.default_rng(seed)
    scores, target = rng.random((80, 12)), (rng.random((80, 12)) < 0.15).astype(int)
    target[:12] |= np.eye(12, dtype=int)  # every class occurs
    expected = official_charades(scores, target)
    found = mean_average_precision(torch.tensor(scores), torch.tensor(target))
    assert found == pytest.approx(expected.mean(), rel=1e-12)
    assert found == pytest.approx(sklearn().average_precision_score(target, scores), rel=1e-12)


def test_videos_without_a_label_count_as_negatives():
    scores = torch.tensor([[0.9], [0.8], [0.7]], dtype=torch.float64)
    target = torch.tensor([[0], [1], [1]])
    # ranked 2nd of 2 and 3rd of 3, by hand; the official script ranks the first video last: 1.0
    assert mean_average_precision(scores, target) == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_equal_scores_do_not_depend_on_the_order_of_the_videos():
    scores, target = torch.full((4, 1), 0.5), torch.tensor([[1], [0], [0], [1]])
    for order in ([0, 1, 2, 3], [1, 2, 3, 0], [0, 3, 1, 2]):
        assert mean_average_precision(scores, target[order]) == 0.5
    assert official_charades(scores.numpy(), target.numpy())[0] == pytest.approx(0.75)


def test_the_confusion_matrix_is_scikit_learns():
    scores = torch.rand(70, 5, generator=torch.Generator().manual_seed(0))
    target = torch.randint(4, (70,), generator=torch.Generator().manual_seed(1))  # 4 never occurs
    expected = sklearn().confusion_matrix(target.numpy(), scores.argmax(1).numpy(), labels=range(5))
    assert confusion_matrix(scores, target).tolist() == expected.tolist()


def test_the_best_value_follows_the_direction():
    assert Metric("a", "A").best([1.0, 3.0, 2.0]) == 3.0
    assert Metric("a", "A", higher=False).best([1.0, 3.0, 2.0]) == 1.0
    assert Metric("a", "A").best([]) is None
