import numpy as np
import pytest
import torch

import nonlocalnet as nl
from nonlocalnet.data.decode import VideoError, decode_all
from nonlocalnet.data.encode import write_video
from nonlocalnet.data.readers import VideoRecord
from nonlocalnet.data.sampling import ClipSpec
from nonlocalnet.data.transforms import TestTransform, normalize
from nonlocalnet.data.video import VideoDataset
from nonlocalnet.evaluation import multiview
from nonlocalnet.models.weights import WeightsInfo

SIDE, FRAMES = 36, 20


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    rng = np.random.default_rng(0)
    records = []
    for i in range(3):
        path = folder / f"{i}.mp4"
        write_video(path, rng.integers(0, 256, (FRAMES, SIDE, 52, 3), dtype=np.uint8))
        records.append(VideoRecord(path, (i % 2,), path.name))
    return records


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = nl.create_model("c2d_tiny_nl2", num_classes=2, clip="4x3", crop=32)
    model.fc.weight.data.normal_()  # so that views differ
    model.info = WeightsInfo(model.config, ["a", "b"], short_side=SIDE)
    return model.eval()


def by_hand(model, path, num_clips):
    """The official protocol, from the whole decoded video: every view alone, then the mean."""
    frames = decode_all(path)
    offset = (52 - SIDE) // 2
    views = []
    for j in range(num_clips):
        start = int(j * FRAMES / num_clips)
        clip = frames[[(start + 3 * i) % FRAMES for i in range(4)]]
        for left in (0, offset, 2 * offset):
            view = normalize(clip[..., left : left + SIDE]).transpose(0, 1)
            logits = model.logits_map(view.unsqueeze(0))
            views.append(logits.softmax(1).mean((2, 3))[0])
    return torch.stack(views).mean(0)


def test_probabilities_are_those_of_the_official_protocol(model, records):
    data = VideoDataset(
        records, 2, ClipSpec(4, 3), TestTransform(SIDE, SIDE, 3), train=False, num_clips=7
    )
    with torch.no_grad():
        found = multiview.evaluate(model, data)
        for record, p in zip(records, found.probabilities, strict=True):
            torch.testing.assert_close(p, by_hand(model, record.path, 7), rtol=1e-5, atol=1e-6)
    assert found.target.tolist() == [0, 1, 0]
    assert found.indices.tolist() == [0, 1, 2]


@pytest.mark.parametrize("max_views", [1, 5, 100])
def test_the_chunking_of_views_changes_nothing(model, records, max_views, monkeypatch):
    data = VideoDataset(
        records, 2, ClipSpec(4, 3), TestTransform(SIDE, SIDE, 3), train=False, num_clips=2
    )
    expected = multiview.evaluate(model, data).probabilities
    monkeypatch.setattr(multiview, "MAX_VIEWS", max_views)
    found = multiview.evaluate(model, data).probabilities
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_unreadable_videos_are_reported_and_the_others_tested(model, records, tmp_path):
    gone = VideoRecord(tmp_path / "gone.mp4", (1,), "gone")
    data = VideoDataset(
        [records[0], gone, records[2]],
        2,
        ClipSpec(4, 3),
        TestTransform(SIDE, SIDE),
        train=False,
    )
    found = multiview.evaluate(model, data, workers=1)
    assert found.indices.tolist() == [0, 2]
    assert len(found.unreadable) == 1
    assert "gone.mp4" in found.unreadable[0]


def test_nothing_readable_is_an_error(model, tmp_path):
    gone = VideoRecord(tmp_path / "gone.mp4", (1,), "gone")
    data = VideoDataset([gone], 2, ClipSpec(4, 3), TestTransform(SIDE, SIDE), train=False)
    with pytest.raises(ValueError, match="no video could be read"):
        multiview.evaluate(model, data)


def test_evaluation_gives_the_mode_back(model, records):
    data = VideoDataset(records[:1], 2, ClipSpec(4, 3), TestTransform(SIDE, SIDE), train=False)
    model.train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    multiview.evaluate(model, data)
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    model.eval()


def test_predict_is_the_same_protocol(model, records):
    with torch.no_grad():
        expected = by_hand(model, records[1].path, 5)
    found = nl.predict(model, records[1].path, num_clips=5, num_crops=3)
    assert [name for name, _ in found] == (["a", "b"] if expected[0] > expected[1] else ["b", "a"])
    assert dict(found) == pytest.approx(
        {"a": float(expected[0]), "b": float(expected[1])}, abs=1e-5
    )


def test_predict_without_a_description_or_a_video(records):
    bare = nl.create_model("c2d_tiny", num_classes=2, clip="4x3", crop=32)
    with pytest.raises(ValueError, match=r"nl\.load"):
        nl.predict(bare, records[0].path)


def test_predict_of_a_bad_file(model, tmp_path):
    with pytest.raises(VideoError, match="no such file"):
        nl.predict(model, tmp_path / "none.mp4")


def test_sigmoid_for_many_labels(model, records):
    many = [VideoRecord(r.path, (0, 1), r.name) for r in records[:1]]
    data = VideoDataset(
        many, 2, ClipSpec(4, 3), TestTransform(SIDE, SIDE), train=False, multi_label=True
    )
    clip, target, _ = data[0]
    assert target.tolist() == [1.0, 1.0]
    found = multiview.evaluate(model, data, multi_label=True).probabilities[0]
    with torch.no_grad():
        expected = model.logits_map(clip).sigmoid().mean((2, 3))[0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
