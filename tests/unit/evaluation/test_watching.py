"""Which frames of a stream are computed together, and with which memory of those before."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import nonlocalnet as nl
from nonlocalnet.checkpoints.metadata import WeightsInfo
from nonlocalnet.clips import ClipSpec
from nonlocalnet.data.video.live import LiveFrame
from nonlocalnet.data.video.source import Source
from nonlocalnet.evaluation import watching
from nonlocalnet.evaluation.watching import EveryFrame, RollingClips, choose_mode, watch
from nonlocalnet.runtime.handover import Handover


def frames(times, part=0):
    return [
        LiveFrame(t, 0.0, np.full((2, 2, 3), k % 256, np.uint8), part) for k, t in enumerate(times)
    ]


def chosen(mode, video):
    """The numbers of the frames of each clip, by the last frame's time."""
    found = {frame.time: mode.add(frame) for frame in video}
    return {
        round(t, 6): [int(one.image[0, 0, 0]) for one in clip] for t, clip in found.items() if clip
    }


@pytest.mark.parametrize(("rate", "n", "fps"), [(8, 8, 25), (2, 16, 30), (1, 4, 8), (4, 1, 25)])
def test_a_rolling_clip_is_the_clip_that_ends_with_the_newest_frame(rate, n, fps):
    """As in training: n frames, one of every `rate`."""
    found = chosen(RollingClips(ClipSpec(n, rate), 1.0), frames([i / fps for i in range(150)]))
    first = n * rate - 1
    ends = range(first, 150, fps)
    assert list(found.values()) == [[e - rate * (n - 1 - i) for i in range(n)] for e in ends]


def test_a_window_in_seconds_and_an_uneven_rate():
    times = np.cumsum(np.random.default_rng(0).uniform(0.01, 0.2, 200))
    found = chosen(RollingClips(ClipSpec(4, 8), 0.5, window=2.0), frames(times))
    assert len(found) == pytest.approx((times[-1] - times[0] - 1.5) / 0.5, abs=2)
    for end, numbers in found.items():
        for number, place in zip(numbers, (1.5, 1.0, 0.5, 0.0), strict=True):
            shown = np.flatnonzero(times <= end - place + 1e-6)[-1]
            assert number == shown


def test_segments_take_the_window_they_are_told():
    found = chosen(RollingClips(ClipSpec(4, None), 1, window=4), frames(range(8)))
    assert found == {
        3: [0, 1, 2, 3],
        4: [1, 2, 3, 4],
        5: [2, 3, 4, 5],
        6: [3, 4, 5, 6],
        7: [4, 5, 6, 7],
    }


def test_no_clip_has_frames_of_two_parts():
    video = frames([0, 1, 2, 3], part=0) + [f._replace(time=f.time + 9) for f in frames(range(4))]
    video[4:] = [f._replace(part=1) for f in video[4:]]
    found = chosen(RollingClips(ClipSpec(3, 1), 1), video)
    assert list(found) == [2, 3, 11, 12]
    assert found[11] == [0, 1, 2]


def test_rolling_clips_keep_only_frames_of_later_clips():
    clips = RollingClips(ClipSpec(4, 2), 50)
    found = [clips.add(frame) for frame in frames([i / 10 for i in range(1200)])]
    assert len(list(filter(None, found))) == 3
    assert len(clips._kept) <= 8


def test_frames_too_large_for_memory(monkeypatch):
    monkeypatch.setattr(watching, "MAX_BYTES", 30)
    clips = RollingClips(ClipSpec(4, 2), 1.0)
    with pytest.raises(ValueError, match="choose a shorter window or a smaller side"):
        chosen(clips, frames(range(9)))


def network(**options):
    torch.manual_seed(0)
    options = {"clip": "3x2", "crop": 32, "num_classes": 3} | options
    net = nl.create_model("c2d_tiny_nl2", **options)
    for module in net.modules():
        if isinstance(module, nl.NonLocalBlock):
            torch.nn.init.normal_(module.norm.weight)
    torch.nn.init.normal_(net.fc.weight)
    net.info = WeightsInfo(net.config, ["ape", "bee", "cat"], short_side=32)
    return net.eval()


def test_the_mode_follows_from_the_network():
    said = []
    clip = ClipSpec(3, 2)
    assert isinstance(choose_mode(network(extent="causal"), clip, None, None), EveryFrame)
    for given in ((1.0, None), (None, 2.0)):
        assert isinstance(choose_mode(network(extent="causal"), clip, *given), RollingClips)
    assert isinstance(choose_mode(network(), clip, None, None, said.append), RollingClips)
    assert said == ["a result every 1 s, from 3 frames of the last 6 frames"]
    choose_mode(network(extent="causal", pool2_time=2), clip, None, None, said.append)
    assert "every frame has no result of its own, since pool2 (MaxPool3d) cannot stream" in said[1]
    with pytest.raises(ValueError, match="8 segments of a whole video"):
        choose_mode(network(), ClipSpec(8, None), None, None)
    with pytest.raises(ValueError, match="above 0 seconds"):
        choose_mode(network(), clip, 0, None)


class AtOnce(threading.Thread):
    """A thread that has done its work before `start` returns."""

    def start(self):
        super().start()
        self.join()


@pytest.fixture
def arrive(monkeypatch):
    """arrive(frames): they have all arrived when the network begins."""

    class Reader(watching.LiveReader):
        def __init__(self, *args, **options):
            super().__init__(Source("pipe", "-"))

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def frames(self):
            return iter(video)

    video = []
    monkeypatch.setattr(watching, "LiveReader", Reader)
    monkeypatch.setattr(watching, "threading", SimpleNamespace(Thread=AtOnce))
    return video.extend


def images(count, part=0):
    rng = np.random.default_rng(part)
    many = rng.integers(0, 256, (count, 32, 40, 3), dtype=np.uint8)
    return [LiveFrame(part * 9 + i / 10, 0.0, x, part) for i, x in enumerate(many)]


def test_every_frame_has_the_result_of_the_clip_that_ends_with_it(arrive, monkeypatch):
    """While the stream is not longer than a clip, exactly; another part begins anew."""
    net = network(extent="causal", pairwise="dot_product")
    video = images(6) + images(5, part=1)
    arrive(video)
    monkeypatch.setattr(EveryFrame, "most", 100)
    found = list(watch(net, Source("pipe", "-"), top=3))
    assert [one.time for one in found] == [frame.time for frame in video]
    for k, one in enumerate(found):
        begin = 0 if k < 6 else 6
        clip = np.stack([video[i].image for i in range(begin, k + 1) if (k - i) % 2 == 0])
        x = (torch.from_numpy(clip[:, :, 4:36]).float() / 255 - 0.45) / 0.225
        p = net.probabilities(x.permute(3, 0, 1, 2)[None])[0]
        values = dict(one.classes)
        assert [values[name] for name in net.info.classes] == pytest.approx(p.tolist(), abs=1e-5)


def test_a_slow_network_computes_the_newest_clip_and_counts_the_others(arrive):
    net = network()
    arrive(images(66))
    (last,) = watch(net, Source("pipe", "-"), every=0.5)
    assert (last.time, last.dropped_clips, last.dropped_frames) == (6.5, 12, 0)
    causal = network(extent="causal")
    found = list(watch(causal, Source("pipe", "-")))
    assert len(found) == watching.FRAMES_WAITING
    assert found[-1].time == 6.5
    assert found[-1].dropped_frames == 66 - len(found)


def test_items_are_handed_over_in_order_and_the_oldest_dropped():
    line = Handover()
    assert [line.put(i, most=3) for i in range(5)] == [0, 0, 0, 1, 1]
    assert [line.get(), line.get()] == [2, 3]
    line.end(KeyError("why"))
    assert line.get() == 4
    with pytest.raises(KeyError, match="why"):
        line.get()
    assert Handover().get(timeout=0.001) is None
