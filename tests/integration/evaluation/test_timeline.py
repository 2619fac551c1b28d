"""A long video of known moments, and a network that tells them by their color."""

import csv
import json
import re
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import nonlocalnet as nl
from nonlocalnet.checkpoints.metadata import WeightsInfo
from nonlocalnet.checkpoints.save import save_weights
from nonlocalnet.cli import main
from nonlocalnet.data.video.reader import VideoError, VideoReader
from nonlocalnet.data.video.write import write_video
from nonlocalnet.evaluation.timeline import compute_timeline
from nonlocalnet.evaluation.timeline_files import save

FPS = 25
PARTS = [  # label, seconds
    *((0, 9.2), (1, 14.4), (0, 1.6), (1, 7.2), (2, 11.0), (0, 6.6)),
]
CLASSES = ["red", "green", "blue </script>"]
COLORS = np.array([(230, 30, 30), (30, 220, 30), (30, 40, 230)], np.uint8)


class ByColor(nn.Module):
    """Logits are the mean of red, green and blue."""

    def __init__(self, clip="8x4"):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(8.0))
        config = {"clip": clip, "num_classes": 3}
        self.info = WeightsInfo(config, CLASSES, short_side=24)

    def forward(self, views):
        return self.scale * views.mean((2, 3, 4))


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """50 seconds, joined from clips of one color each."""
    path = tmp_path_factory.mktemp("long") / "long <b>.mp4"
    labels = np.repeat([label for label, _ in PARTS], [round(s * FPS) for _, s in PARTS])
    frames = np.broadcast_to(COLORS[labels][:, None, None], (len(labels), 24, 32, 3))
    write_video(path, frames, fps=FPS)
    return path


def test_segments_are_at_the_known_moments(video):
    found = compute_timeline(ByColor(), video, every=0.4)
    assert found.duration == pytest.approx(50)
    assert found.window == pytest.approx(32 / FPS)  # the network's own clip
    assert found.note == found.error == ""
    assert found.probabilities.shape == (125, 3)
    ends = np.cumsum([seconds for _, seconds in PARTS])
    expected = [(label, end - s, end) for (label, s), end in zip(PARTS, ends, strict=True)]
    assert [s.label for s in found.segments] == [label for label, _, _ in expected]
    for segment, (_, start, end) in zip(found.segments, expected, strict=True):
        assert segment.start == pytest.approx(start, abs=0.4)
        assert segment.end == pytest.approx(end, abs=0.4)
        assert segment.score > 0.8
    # with a window longer than the third part, the green ones around it are one
    longer = compute_timeline(ByColor(), video, every=0.4, window=3.2)
    assert "own clip is 1.28 s of this video; its 8 frames are spread over the window of 3.2 s" in (
        longer.note
    )
    green = [segment for segment in longer.segments if segment.label == 1]
    assert len(green) == 1
    assert green[0].start == pytest.approx(9.2, abs=0.4)
    assert green[0].end == pytest.approx(32.4, abs=0.4)


def test_each_window_is_computed_as_predict_does(video, tmp_path):
    torch.manual_seed(0)
    model = nl.create_model("c2d_tiny", num_classes=3, clip="4x2", crop=24)
    model.fc.weight.data.normal_()
    model.info = WeightsInfo(model.config, ["a", "b", "c"], short_side=24)
    rng = np.random.default_rng(0)
    path = tmp_path / "short.mp4"
    write_video(path, rng.integers(0, 256, (8, 24, 40, 3), dtype=np.uint8), fps=FPS)
    found = compute_timeline(model.train(), path, num_crops=3)
    assert model.training
    expected = dict(nl.predict(model, path, num_clips=1, num_crops=3))
    assert found.probabilities.shape == (1, 3)
    assert dict(zip("abc", found.probabilities[0].tolist(), strict=True)) == pytest.approx(expected)


def test_each_frame_is_converted_once(video, monkeypatch):
    converted, convert = [], VideoReader._to_rgb

    def count(reader, frame, size):
        converted.append(frame.pts)
        return convert(reader, frame, size)

    monkeypatch.setattr(VideoReader, "_to_rgb", count)
    compute_timeline(ByColor(), video, every=0.2, pictures=30)
    assert len(converted) - len(set(converted)) <= 1  # the first, for its size


def test_a_video_that_breaks_off_has_a_timeline_until_there(video, monkeypatch, tmp_path):
    stream = VideoReader.stream

    def broken(reader, indices, **options):
        for i, image in stream(reader, indices, **options):
            if i >= 500:
                raise VideoError(reader.path, "decoding fails")
            yield i, image

    monkeypatch.setattr(VideoReader, "stream", broken)
    found = compute_timeline(ByColor(), video, every=1.0)
    assert found.error == "decoding fails"
    assert found.duration == len(found.probabilities) == 20
    assert [segment.label for segment in found.segments] == [0, 1]
    save(found, tmp_path / "t.json")
    assert json.loads((tmp_path / "t.json").read_text())["error"] == "decoding fails"
    monkeypatch.setattr(VideoReader, "stream", lambda *_, **__: iter(broken_at_once()))
    with pytest.raises(VideoError, match="nothing can be decoded"):
        compute_timeline(ByColor(), video)


def broken_at_once():
    raise VideoError("x.mp4", "nothing can be decoded")
    yield


def test_a_network_of_segments_needs_a_window(video):
    with pytest.raises(ValueError, match=r"window=2\.56"):
        compute_timeline(ByColor(clip="8seg"), video)
    found = compute_timeline(ByColor(clip="8seg"), video, every=0.5, window=1.0)
    assert [s.label for s in found.segments] == [label for label, _ in PARTS]


def test_the_time_stamps_of_a_varying_frame_rate(tmp_path):
    stamps = [*range(0, 20), *range(20, 100, 8), *range(100, 120)]  # tenths of a second
    path = tmp_path / "varying.mkv"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "yuv420p"
        for stamp in stamps:
            color = COLORS[0] if stamp < 60 else COLORS[1]
            image = np.broadcast_to(color, (24, 32, 3))
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts, frame.time_base = stamp, Fraction(1, 10)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    with VideoReader(path) as reader:
        assert reader.times() == pytest.approx([stamp / 10 for stamp in stamps], abs=0.002)
    found = compute_timeline(ByColor(), path, every=0.5, window=1.0)
    assert found.duration == pytest.approx(12, abs=0.2)
    (red, green) = found.segments
    assert (red.label, green.label) == (0, 1)
    assert red.end == green.start == pytest.approx(6, abs=0.75)


def test_a_folder_of_pictures(tmp_path):
    for i in range(50):
        image = np.broadcast_to(COLORS[i // 25], (24, 32, 3))
        Image.fromarray(np.ascontiguousarray(image)).save(tmp_path / f"{i:03}.png")
    found = compute_timeline(ByColor(), tmp_path, every=0.2, window=0.4)
    assert found.duration == 2
    assert [(s.label, s.start, s.end) for s in found.segments] == [
        (0, 0.0, pytest.approx(1, abs=0.21)),
        (1, pytest.approx(1, abs=0.21), 2.0),
    ]


def test_files(video, tmp_path):
    found = compute_timeline(ByColor(), video, every=0.5, pictures=20)
    assert 15 <= len(found.pictures) <= 20
    for suffix in ("csv", "json", "png", "html"):
        save(found, tmp_path / f"t.{suffix}", look="nonlocalnet look x --moment MOMENTs")
    with (tmp_path / "t.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == [CLASSES[label] for label, _ in PARTS]
    assert float(rows[4]["start"]) == pytest.approx(found.segments[4].start)
    numbers = json.loads((tmp_path / "t.json").read_text())
    assert [row["class"] for row in numbers["segments"]] == [row["class"] for row in rows]
    assert [curve["class"] for curve in numbers["curves"]] == CLASSES
    assert numbers["times"][:3] == [0, 0.5, 1]
    for k, curve in enumerate(numbers["curves"]):
        assert curve["probabilities"] == pytest.approx(found.probabilities[:, k], abs=5e-5)
    assert "gaps shorter than 1.28 s are joined" in numbers["rule"]
    assert (tmp_path / "t.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "t.html").read_text()
    assert page.count("</script>") == 2  # a class does not end one
    assert "<b>" not in page
    assert not re.search(r"(?:src|href)=.?http", page)
    about = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])
    assert len(about["pictures"]) == len(found.pictures)
    assert about["rule"] == numbers["rule"]


def test_the_command(video, tmp_path, capsys):
    torch.manual_seed(0)
    model = nl.create_model("c2d_tiny_nl2", num_classes=2, clip="4x2", crop=24)
    weights = tmp_path / "w.safetensors"
    save_weights(model, weights, WeightsInfo(model.config, ["a", "b"], short_side=24))
    words = ["predict", str(video), "--weights", str(weights), "--device", "cpu", "--every", "5"]
    out = [str(tmp_path / "t.html"), str(tmp_path / "t.csv")]
    assert main([*words, "--window", "0.64", "--threshold", "0.01", "--out", *out]) == 0
    said = capsys.readouterr()
    assert "note: the network's own clip is 0.32 s" in said.err
    assert "0:00.0" in said.out
    page = (tmp_path / "t.html").read_text()
    assert "nonlocalnet look" in page
    assert "--moment MOMENTs" in page
    assert main([*words, "--threshold", "1"]) == 0
    assert "no class has a smoothed probability of 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--every", "1", "--out", "x.jsonl"], "one of '.csv', '.json', '.png', '.html'"),
        (["--every", "1", "--num-clips", "3"], "--num-clips has no use with --every"),
        (["--every", "1", "--top", "3"], "--top has no use with --every"),
        (["--every", "0"], "--every must be above 0"),
        (["--window", "2"], "give --every, too"),
        (["--out", "a.csv", "b.csv"], "--out is one file"),
        (["other.mp4", "--every", "1"], "--every takes one video; got 2"),
    ],
)
def test_errors_of_use(video, tmp_path, more, said, capsys):
    (tmp_path / "w.safetensors").touch()
    words = ["predict", str(video), *more, "--weights", str(tmp_path / "w.safetensors")]
    assert main(words) == 2
    assert said in capsys.readouterr().err
