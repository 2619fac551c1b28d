from dataclasses import replace

import numpy as np
import pytest
import torch

import nonlocalnet as nl
from nonlocalnet.checkpoints.metadata import WeightsInfo
from nonlocalnet.clips import ClipSpec
from nonlocalnet.data.dataset import VideoDataset
from nonlocalnet.data.datasets import VideoRecord
from nonlocalnet.data.transforms import TestTransform, normalize
from nonlocalnet.data.video.reader import VideoError, decode_all
from nonlocalnet.data.video.write import write_video
from nonlocalnet.evaluation import multiview
from nonlocalnet.evaluation.views import make_test_set

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


def view_set(records, **options):
    transform = TestTransform(short_side=SIDE, **{"crop": SIDE, "num_crops": 3} | options)
    return VideoDataset(records, 2, ClipSpec(4, 3), transform, train=False, num_clips=2)


@pytest.mark.parametrize("at_once", [1, 5, 100])
def test_how_many_views_go_at_once_changes_nothing(model, records, at_once, monkeypatch):
    expected = multiview.evaluate(model, view_set(records)).probabilities
    monkeypatch.setattr(multiview, "CPU_VIEWS", at_once)
    found = multiview.evaluate(model, view_set(records)).probabilities
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_where_memory_runs_out_fewer_views_go_at_once(model, records, monkeypatch):
    expected = multiview.evaluate(model, view_set(records))
    seen, compute = [], model.probabilities

    def small_memory(views, **options):
        seen.append(len(views))
        if len(views) > 3:
            raise torch.OutOfMemoryError("out of memory")
        return compute(views, **options)

    monkeypatch.setattr(model, "probabilities", small_memory)
    found = multiview.evaluate(model, view_set(records))
    torch.testing.assert_close(found.probabilities, expected.probabilities, rtol=1e-5, atol=1e-6)
    # 2 videos of 6 views; halved until they fit, and what fits is remembered
    assert seen == [12, 6, 3, 3, 3, 3, 3, 3]
    monkeypatch.setattr(model, "probabilities", lambda *_, **__: small_memory(range(9)))
    with pytest.raises(torch.OutOfMemoryError):
        multiview.evaluate(model, view_set(records[:1]))


def test_whole_frames_of_different_sizes(model, records, tmp_path):
    wide = tmp_path / "wide.mp4"
    write_video(wide, np.random.default_rng(1).integers(0, 256, (9, 36, 80, 3), dtype=np.uint8))
    mixed = [records[0], VideoRecord(wide, (1,), "wide"), *records[1:]]
    found = multiview.evaluate(model, view_set(mixed, crop="whole", num_crops=1))
    assert found.indices.tolist() == [0, 1, 2, 3]
    with torch.no_grad():
        for record, p in zip(mixed, found.probabilities, strict=True):
            frames = decode_all(record.path)
            n = len(frames)
            starts = [0, n // 2]
            clips = [frames[[(s + 3 * i) % n for i in range(4)]] for s in starts]
            views = torch.stack([normalize(clip).transpose(0, 1) for clip in clips])
            expected = model.logits_map(views).softmax(1).mean((0, 2, 3))
            torch.testing.assert_close(p, expected, rtol=1e-5, atol=1e-6)


def test_the_test_set_of_a_network(model, records):
    def made(**options):
        data = make_test_set(records, model.info, **options)
        return tuple(data[0][0].shape), data.transform

    assert made()[0] == (30, 3, 4, SIDE, SIDE)
    assert made(num_crops=6)[0] == (60, 3, 4, SIDE, SIDE)
    assert made(num_crops=1, crop=32)[0] == (10, 3, 4, 32, 32)  # the official center crop
    assert made(crop="whole", side=40)[0] == (10, 3, 4, 40, 40 * 52 // 36)
    assert made(num_clips=1, num_crops=1, side=40)[0] == (1, 3, 4, 40, 40)
    model_of_others = replace(model.info, mean=(0.4, 0.5, 0.6))
    assert make_test_set(records, model_of_others).transform.mean == (0.4, 0.5, 0.6)
    with pytest.raises(ValueError, match="a whole frame is one crop"):
        made(crop="whole", num_crops=3)
    with pytest.raises(ValueError, match="crop must fit the short side"):
        made(side=20, crop=32)


def test_single_views_are_judged_too(model, records):
    found = multiview.evaluate(model, view_set(records))
    with torch.no_grad():
        for i, share in enumerate(found.views_right.tolist()):
            views, target, _ = view_set(records)[i]
            hits = model.probabilities(normalize(views)).argmax(1) == target
            assert share == pytest.approx(hits.double().mean().item())


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
        expected = model.logits_map(normalize(clip)).sigmoid().mean((2, 3))[0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("processes", [2, 3, 7])
def test_every_video_counts_once_however_many_processes_share_them(
    model, records, tmp_path, monkeypatch, processes
):
    """The processes one after the other; under torchrun: see cli/test_test_command.py."""
    gone = VideoRecord(tmp_path / "gone.mp4", (1,), "gone")
    data = view_set([records[0], gone, *records[1:], records[0]])
    expected = multiview.evaluate(model, data)
    assert expected.indices.tolist() == [0, 2, 3, 4]
    shares = []
    monkeypatch.setattr(multiview, "world_size", lambda: processes)
    monkeypatch.setattr(multiview, "all_gather", lambda rows: shares.append(rows) or [{0: "error"}])
    for number in range(processes):
        monkeypatch.setattr(multiview, "rank", lambda number=number: number)
        with pytest.raises(ValueError, match="no video could be read"):
            multiview.evaluate(model, data)
    assert sum(map(len, shares)) == len(data)
    monkeypatch.setattr(multiview, "all_gather", lambda rows: shares)
    found = multiview.evaluate(model, data)
    assert found.indices.tolist() == expected.indices.tolist()
    assert found.target.tolist() == expected.target.tolist()
    assert found.unreadable == expected.unreadable
    torch.testing.assert_close(found.probabilities, expected.probabilities, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.views_right, expected.views_right)


def test_a_test_that_another_process_left_ends(model, records, monkeypatch):
    dataset = make_test_set(records, model.info, num_clips=1)
    monkeypatch.setattr(multiview, "all_gather", lambda rows: [rows, None])
    with pytest.raises(multiview.PeerLeft):
        multiview.evaluate(model, dataset)


def test_large_views_are_computed_a_few_at_a_time(model, records, monkeypatch):
    data = view_set(records[:1])
    expected = multiview.evaluate(model, data)
    counts, compute = [], type(model).probabilities

    def count(model, views, **options):
        counts.append(len(views))
        return compute(model, views, **options)

    monkeypatch.setattr(type(model), "probabilities", count)
    pixels = data[0][0][0, 0].numel()
    monkeypatch.setattr(multiview, "CPU_PIXELS", 2 * pixels)
    found = multiview.evaluate(model, data)
    assert max(counts) == 2
    torch.testing.assert_close(found.probabilities, expected.probabilities, rtol=1e-5, atol=1e-6)
