"""Windows and segments by hand, and the memory of a stand-in video."""

import weakref

import numpy as np
import pytest

from nonlocalnet.clips import ClipSpec
from nonlocalnet.data.sampling import center_clip
from nonlocalnet.errors import typed_options
from nonlocalnet.evaluation import timeline
from nonlocalnet.evaluation.timeline import find_segments, smooth, window_frames
from nonlocalnet.evaluation.timeline_files import clock


@pytest.mark.parametrize("fps", [7, 25, 30000 / 1001])
@pytest.mark.parametrize("clip", [ClipSpec(8, 8), ClipSpec(4, 3), ClipSpec(1, 5)])
def test_a_window_as_long_as_the_clip_has_the_frames_of_the_clip(fps, clip):
    frames = 400
    times = [i / fps for i in range(frames)]
    for start in (0, 1, 33, 129, frames - clip.span):
        moment = (start + clip.span / 2) / fps
        found = window_frames(times, frames / fps, moment, clip.span / fps, clip)
        assert found == [start + i * clip.rate for i in range(clip.frames)]


def test_a_window_is_moved_inside_the_video():
    times, clip = [i / 10 for i in range(100)], ClipSpec(4, 7)
    assert window_frames(times, 10.0, 0.0, 2.0, clip) == [0, 5, 10, 15]
    assert window_frames(times, 10.0, 1.0, 2.0, clip) == [0, 5, 10, 15]
    assert window_frames(times, 10.0, 1.5, 2.0, clip) == [5, 10, 15, 20]
    assert window_frames(times, 10.0, 9.9, 2.0, clip) == [80, 85, 90, 95]


def test_a_video_that_is_shorter_than_the_window_is_repeated():
    times = [i / 10 for i in range(10)]
    assert window_frames(times, 1.0, 0.5, 2.0, ClipSpec(4, 1)) == [0, 5, 0, 5]
    assert window_frames([0.0], 0.0, 0.0, 2.0, ClipSpec(2, 1)) == [0, 0]


def test_a_window_of_segments_has_their_middles():
    times = [i / 10 for i in range(100)]
    found = window_frames(times, 10.0, 5.0, 4.0, ClipSpec(4, None))
    assert found == [35, 45, 55, 65]
    whole = window_frames(times, 10.0, 5.0, 10.0, ClipSpec(4, None))
    assert whole == center_clip(100, ClipSpec(4, None))


def test_frames_are_chosen_by_their_time_stamps():
    times = [0.0, 0.5, 0.6, 0.7, 2.0, 3.0]  # the frame of 0.7 s stays until 2 s
    assert window_frames(times, 4.0, 2.0, 4.0, ClipSpec(4, 9)) == [0, 3, 4, 5]
    assert window_frames(times, 4.0, 0.9, 1.0, ClipSpec(5, 9)) == [0, 2, 3, 3, 3]


def one_class(*values):
    return np.array(values, np.float32)[:, None]


def test_the_smoothed_curve():
    found = smooth(np.array([[0.9, 0.0], [0.3, 0.6], [0.0, 0.0], [0.6, 0.3]]))
    assert found == pytest.approx(np.array([[0.6, 0.3], [0.4, 0.2], [0.3, 0.3], [0.3, 0.15]]))
    assert smooth(np.array([[0.7]])).tolist() == [[0.7]]


def test_a_segment_lasts_until_halfway_to_the_next_moment():
    # smoothed: 0, .3, .6, .9, .6, .3, 0; moments 0, 2, ..., 12 s
    p = one_class(0, 0, 0.9, 0.9, 0.9, 0, 0)
    (found,) = find_segments(p, 13.0, 2.0, 3.0, 0.5)
    assert (found.label, found.start, found.end) == (0, 3.0, 9.0)
    assert found.score == pytest.approx(0.9)
    (lower,) = find_segments(p, 13.0, 2.0, 3.0, 0.25)
    assert (lower.start, lower.end) == (1.0, 11.0)
    assert lower.score == pytest.approx(2.7 / 5)
    assert find_segments(p, 13.0, 2.0, 3.0, 0.95) == []


def test_a_single_moment_is_smoothed_away():
    assert find_segments(one_class(0, 0, 1, 0, 0), 5.0, 1.0, 1.0, 0.5) == []


@pytest.mark.parametrize(("window", "count"), [(2.0, 2), (2.01, 1), (9.0, 1)])
def test_gaps_shorter_than_a_window_are_joined(window, count):
    # smoothed: 1, 1, .67, .33, .33, .67, 1, 1: two moments of 1 s are below the threshold
    p = one_class(1, 1, 1, 0, 0, 1, 1, 1)
    found = find_segments(p, 8.0, 1.0, window, 0.5)
    if count == 2:
        assert [(s.start, s.end, s.score) for s in found] == [(0.0, 2.5, 1.0), (4.5, 8.0, 1.0)]
    else:
        assert [(s.start, s.end, s.score) for s in found] == [(0.0, 8.0, 0.75)]


def test_segments_of_several_classes_are_in_order_of_time():
    p = np.array([[0, 1, 1], [0, 1, 1], [1, 0, 1], [1, 0, 1]], np.float32)
    found = [(s.label, s.start, s.end) for s in find_segments(p, 4.0, 1.0, 0.5, 0.6)]
    assert found == [(1, 0.0, 1.5), (2, 0.0, 4.0), (0, 1.5, 4.0)]


class Stream:
    """Frames of a long video, of which it counts those that are still alive."""

    path = "long.mp4"

    def __init__(self):
        self.alive, self.most, self.given = 0, 0, []

    def stream(self, indices, *, short_side):
        for i in sorted(indices):
            image = np.full((short_side, short_side, 3), i % 251, np.uint8)
            self.alive += 1
            weakref.finalize(image, self._end)
            self.most = max(self.most, self.alive)
            self.given.append(i)
            yield i, image
            del image

    def _end(self):
        self.alive -= 1


@pytest.mark.parametrize("count", [30, 300])
def test_the_memory_does_not_depend_on_the_length(count):
    reader = Stream()
    windows = timeline._windows(reader, lambda k: range(10 * k, 10 * k + 40, 4), count, 8)
    for k, images in enumerate(windows):
        assert [int(image[0, 0, 0]) for image in images] == [
            i % 251 for i in range(10 * k, 10 * k + 40, 4)
        ]
        del images
    assert k == count - 1
    assert len(set(reader.given)) == len(reader.given)  # each once
    assert reader.most <= 22


def test_windows_that_need_too_much_memory_are_refused(monkeypatch):
    monkeypatch.setattr(timeline, "MAX_BYTES", 1000)
    with (
        typed_options(),
        pytest.raises(ValueError, match="a shorter --window, a larger --e"),
    ):
        list(timeline._windows(Stream(), lambda k: range(k, k + 20), 9, 8))


def test_times_are_written_as_a_player_does():
    assert [clock(x) for x in (0, 59.96, 60, 3599.9, 7325.4)] == [
        *("0:00.0", "0:59.9", "1:00.0", "59:59.9", "2:02:05.4")
    ]
