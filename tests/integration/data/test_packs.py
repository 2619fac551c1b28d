"""`data pack`: packed data give what the files give, of any format and after any interruption."""

from __future__ import annotations

import dataclasses
import json
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from nonlocalnet.cli import main
from nonlocalnet.clips import ClipSpec
from nonlocalnet.data.check import check_dataset
from nonlocalnet.data.dataset import VideoDataset
from nonlocalnet.data.datasets import VideoSplits, read_dataset, read_entries
from nonlocalnet.data.packs import write as packing
from nonlocalnet.data.packs.video import PackedVideo
from nonlocalnet.data.packs.write import PackReport, pack_dataset
from nonlocalnet.data.seeding import Draw
from nonlocalnet.data.synthetic import write_same_color
from nonlocalnet.data.transforms import TrainTransform
from nonlocalnet.data.video.reader import VideoError, decode_all, open_reader, probe
from nonlocalnet.evaluation.views import identify_videos

UNFINISHED = ".pack.jsonl.partial"


def pack(source: Path, out: Path, shard_size: int = 30_000, **options) -> PackReport:
    found = read_entries(source, **options)
    return pack_dataset(source, found, out, shard_size=shard_size)


def write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def write_videos(root: Path, *names: str) -> None:
    """Files of different bytes and lengths; nothing here decodes them."""
    for i, name in enumerate(names):
        write(root / name, bytes([i]) * (100 + 700 * i))


def write_picture(path: Path, value: int) -> None:
    context = av.CodecContext.create("png", "w")
    context.width, context.height, context.pix_fmt = 8, 6, "rgb24"
    frame = av.VideoFrame.from_ndarray(np.full((6, 8, 3), value, np.uint8), format="rgb24")
    write(path, b"".join(bytes(packet) for packet in context.encode(frame)))


@pytest.fixture(scope="module")
def loose(tmp_path_factory) -> Path:
    """Folders of two classes with three videos each, in train and val."""
    root = tmp_path_factory.mktemp("loose")
    for seed, split in enumerate(("train", "val")):
        write_same_color(root / split, 6, seed=seed)
    return root


@pytest.fixture(scope="module")
def packed(loose, tmp_path_factory) -> Path:
    """The same, two videos in a shard."""
    out = tmp_path_factory.mktemp("packed") / "out"
    assert pack(loose, out) == PackReport(videos=12, shards=6, before=0, missing=0)
    return out


@pytest.fixture
def in_this_process(monkeypatch) -> None:
    """Check files here: a process of its own takes seconds to start, and other tests start some."""

    def call(function, items, **limits):
        return enumerate(function(*item) for item in items)

    monkeypatch.setattr("nonlocalnet.data.check.run_isolated", call)


def folders(root: Path) -> None:
    write_videos(root, "train/a b/1.mp4", "train/c/2.x.mkv", "val/a_b/3.mp4", "val/c/4.avi")


def classes_alone(root: Path) -> None:
    write_videos(root, "a/1.mp4", "a/1.avi", "b/deep/2.mp4")


def lists(root: Path) -> None:
    write(root / "train.txt", "v/1.mp4 0\nv/gone.mp4 1\nv/2.mp4 2\nv/1.mp4 0\n")
    write(root / "val.txt", "v/3.mp4 2\nv/1.mp4 1\n")  # which training has, too
    write(root / "classes.txt", "x\ny\nz\n")
    write_videos(root, "v/1.mp4", "v/2.mp4", "v/3.mp4")


def lists_of_many_labels(root: Path) -> None:
    write(root / "train.txt", "1.mp4 0,3\n2.mp4 -\n")
    write_videos(root, "1.mp4", "2.mp4")


def charades(root: Path) -> None:
    write(root / "Charades_v1_train.csv", "id,actions\nA,c000 1 2;c156 0 1\nB,\nGONE,c001 1 2\n")
    write(root / "Charades_v1_test.csv", "id,actions\nC,c003 1 2\n")
    write_videos(root, "videos/A.mp4", "videos/B.mp4", "videos/C.mp4")


def something(root: Path) -> None:
    for part, number in (("train", 1), ("validation", 2)):
        entry = {"id": str(number), "template": "Moving [something] left"}
        write(root / f"{part}.json", json.dumps([entry]))
    write(root / "labels.json", '{"Moving something left": "0"}')
    write_videos(root, "20bn/1.webm", "20bn/2.webm")


def jester(root: Path) -> None:
    write(root / "jester-v1-labels.csv", "Swiping Left\nNo gesture\n")
    write(root / "jester-v1-train.csv", "1;Swiping Left\n2;No gesture\n")
    write(root / "jester-v1-validation.csv", "3;No gesture\n4;Swiping Left\n")
    for video in range(1, 5):
        for number in range(3):
            write_picture(root / f"20bn/{video}/{number + 1:05d}.png", 50 * video + number)
    write(root / "20bn/1/flow_x_00001.jpg", b"flow")


def ucf101(root: Path) -> None:
    write(root / "classInd.txt", "1 Archery\n2 Bowling\n")
    write(root / "trainlist01.txt", "Archery/v_1.avi 1\nBowling/v_2.avi 2\n")
    write(root / "testlist01.txt", "Archery/v_3.avi\nBowling/v_4.avi\n")
    names = ("Archery/v_1", "Bowling/v_2", "Archery/v_3", "Bowling/v_4")
    write_videos(root, *(f"UCF-101/{name}.avi" for name in names))


def hmdb51(root: Path) -> None:
    for name in ("clap", "wave"):
        write(root / f"splits/{name}_test_split1.txt", f"{name}1.avi 1\n{name}2.avi 2\n")
        write_videos(root, f"{name}/{name}1.avi", f"{name}/{name}2.avi")


def kinetics(root: Path) -> None:
    header = "label,youtube_id,time_start,time_end,split\n"
    write(root / "all.csv", header + "a b,x,1,2,train\na b,y,1,2,val\na b,gone,1,2,train\n")
    write(root / "test.csv", "youtube_id,time_start,time_end,split\nz,1,11,test\n")
    write_videos(root, "train/a_b/x_000001_000002.mp4", "val/a_b/y_000001_000002.mp4")
    write_videos(root, "test/z_000001_000011.mp4")


FORMATS = (folders, classes_alone, lists, lists_of_many_labels, charades, something, jester)
FORMATS += (ucf101, hmdb51, kinetics)


def contents(path: Path | PackedVideo) -> bytes | list[bytes]:
    if path.is_dir():
        with open_reader(path) as folder:
            return [folder.read(picture) for picture in folder.pictures]
    with path.open() if isinstance(path, PackedVideo) else path.open("rb") as file:
        return file.read()


def listed(data: VideoSplits) -> dict:
    """All that a data set says, with the bytes of videos in place of their paths."""
    fields = {f.name: getattr(data, f.name) for f in dataclasses.fields(data)}
    for split in ("train", "val"):
        records = fields[split] or []
        fields[split] = [(r.name, r.labels, r.num_frames, contents(r.path)) for r in records]
    fields["test"] = [contents(path) for path in data.test]
    del fields["walked"], fields["notes"]  # which are about files beside the videos, too
    return fields


@pytest.mark.parametrize("make", FORMATS, ids=[make.__name__ for make in FORMATS])
def test_every_format_gives_what_its_files_give(tmp_path, make: Callable[[Path], None]):
    make(tmp_path / "data")
    before = read_dataset(tmp_path / "data")
    pack(tmp_path / "data", tmp_path / "out", shard_size=10_240)
    after = read_dataset(tmp_path / "out")
    assert listed(after) == listed(before)
    assert all(isinstance(r.path, PackedVideo) for r in after.train)
    ours, theirs = ([*d.train, *(d.val or [])] for d in (after, before))
    assert identify_videos(ours) == identify_videos(theirs)


def test_val_root_and_classes_are_packed_as_they_are_read(tmp_path):
    write_videos(tmp_path / "v", "1.mp4", "2.mp4", "3.mp4")
    write(tmp_path / "a.txt", "1.mp4 1\n2.mp4 0\n")
    write(tmp_path / "b.txt", "3.mp4 1\n")
    given = {"val": tmp_path / "b.txt", "root": tmp_path / "v", "classes": ["no", "yes"]}
    pack(tmp_path / "a.txt", tmp_path / "out", **given)
    assert listed(read_dataset(tmp_path / "out")) == listed(
        read_dataset(tmp_path / "a.txt", **given)
    )


def samples(folder: Path, split: str) -> dict[str, dict[str, bytes]]:
    """Read shards as the documentation of WebDataset says: files with one key follow each other."""
    found: dict[str, dict[str, bytes]] = {}
    last = ""
    for shard in sorted(folder.glob(f"{split}-*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar:
                match = re.fullmatch(r"((?:.*/|)[^.]+)[.]([^/]*)", member.name)
                assert match, member.name
                key, suffix = match.groups()
                assert key == last or key not in found
                assert suffix not in found.setdefault(key, {})
                found[key][suffix] = tar.extractfile(member).read()
                last = key
    return found


def test_shards_are_those_of_webdataset(tmp_path):
    folders(tmp_path / "f")
    pack(tmp_path / "f", tmp_path / "folders")
    train = samples(tmp_path / "folders", "train")
    assert {key: sample["cls"] for key, sample in train.items()} == {
        "train/a b/1": b"0",
        "train/c/2_x": b"1",  # a key ends at the first dot
    }
    assert train["train/c/2_x"]["mkv"] == (tmp_path / "f/train/c/2.x.mkv").read_bytes()
    classes_alone(tmp_path / "c")
    pack(tmp_path / "c", tmp_path / "alone")
    names = [sorted(sample) for sample in samples(tmp_path / "alone", "train").values()]
    assert names == [["avi", "cls"], ["cls", "mp4"], ["cls", "mp4"]]  # 1.avi and 1.mp4 are two
    jester(tmp_path / "j")
    pack(tmp_path / "j", tmp_path / "frames")
    frames = samples(tmp_path / "frames", "val")["3"]
    assert sorted(frames) == ["00001.png", "00002.png", "00003.png", "cls"]
    lists_of_many_labels(tmp_path / "m")
    pack(tmp_path / "m", tmp_path / "many")
    label = json.loads(samples(tmp_path / "many", "train")["1"]["json"])
    assert label == {"labels": [0, 3], "classes": ["0", "3"]}


def test_webdataset_reads_them(packed):
    webdataset = pytest.importorskip("webdataset")
    url = f"{packed.as_posix()}/train-{{000000..000002}}.tar"
    found = list(webdataset.WebDataset(url, shardshuffle=False).decode())
    assert [(s["__key__"], s["cls"]) for s in found] == [
        (f"train/{name}/{i:05d}", label)
        for label, name in enumerate(("different", "same"))
        for i in range(label, 6, 2)
    ]


def tree(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("cut", [0, 1, 30, 600])
def test_an_interrupted_packing_continues_to_the_same_bytes(
    loose, packed, tmp_path, monkeypatch, cut
):
    out = tmp_path / "out"
    fill, called = packing._fill, []

    def fill_some(file, block, shard):
        lines = fill(file, block, shard)
        called.append(block.name)
        if len(called) == 4:
            raise KeyboardInterrupt  # before the shard has its name
        return lines

    monkeypatch.setattr(packing, "_fill", fill_some)
    with pytest.raises(KeyboardInterrupt):
        pack(loose, out)
    assert {file.name for file in out.iterdir()} == {
        UNFINISHED,
        *(f"train-00000{i}.tar" for i in range(3)),
    }
    with pytest.raises(ValueError, match="packing was interrupted; start"):
        read_dataset(out)
    if cut:  # as if the machine had lost the end of the file
        journal = (out / UNFINISHED).read_bytes()
        (out / UNFINISHED).write_bytes(journal[:-cut])
    (out / ".train-000003.tar.partial").touch()  # of a process that was killed
    report = pack(loose, out)
    assert report.before == (6 if not cut else 4 if cut < 100 else 2)
    (out / ".train-000003.tar.partial").unlink()
    assert tree(out) == tree(packed)
    assert pack(loose, out).before == 12
    assert tree(out) == tree(packed)


def test_only_one_large_video_is_over_the_size(tmp_path):
    write_videos(tmp_path / "data", *(f"a/{i}.mp4" for i in range(9)))
    write(tmp_path / "data/a/5.mp4", bytes(50_000))
    pack(tmp_path / "data", tmp_path / "out", shard_size=20_480)
    sizes = [shard.stat().st_size for shard in sorted((tmp_path / "out").glob("*.tar"))]
    assert sum(size > 20_480 for size in sizes) == 1
    assert max(sizes) < 50_000 + 12_288
    assert len(sizes) > 3


def test_bad_inputs_are_refused_in_a_sentence(loose, packed, tmp_path, monkeypatch):
    def refused(match: str, source: Path = loose, out: Path = tmp_path / "out", **options) -> None:
        with pytest.raises(ValueError, match=match):
            pack(source, out, **options)

    refused("has other data, or shards of another size", out=packed, shard_size=40_000)
    refused("is packed already", source=packed)
    refused("is inside of", out=loose / "out")
    assert not (loose / "out").exists()
    write(tmp_path / "a.txt", f"{packed}/train/same/00001.mp4 0\n")
    refused("00001.mp4: is packed already", source=tmp_path / "a.txt")
    with pytest.raises(ValueError, match="are in it: leave out root"):
        read_dataset(packed, root=loose)
    write_videos(tmp_path / "lonely", "train/a/1.mp4", "train/b/2.mp4", "val/a/3.mp4")
    refused("1 class of train has no video in val: b", source=tmp_path / "lonely")
    for name in ("x_1.png", "x_2.png", "y_1.png"):
        write_picture(tmp_path / f"two/a/v/{name}", 0)
    write(tmp_path / "two.txt", "two/a/v 0\n")
    refused("holds several series of pictures", source=tmp_path / "two.txt")
    real = packing.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(packing.shutil, "disk_usage", lambda path: real._replace(free=9000))
    refused(r"needs 0\.00 GB, and 0\.00 GB are free")
    monkeypatch.undo()
    found = read_entries(loose)
    copy = packing._copy

    def grow(tar, header, source):
        header.size -= 1
        copy(tar, header, source)

    monkeypatch.setattr(packing, "_copy", grow)
    with pytest.raises(ValueError, match=r"00000\.mp4: has .* bytes, and had .* before"):
        pack_dataset(loose, found, tmp_path / "grown")


def test_damage_of_packed_data_is_told(packed, tmp_path, in_this_process):
    def damaged(name: str, change: Callable[[bytes], bytes]) -> Path:
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        for file, data in tree(packed).items():
            (folder / file).write_bytes(change(data) if file == name else data)
        return folder

    cut = damaged("val-000000.tar", lambda data: data[:-512])
    with pytest.raises(ValueError, match="1 of 6 shards are missing or have another size"):
        read_dataset(cut)
    for change, match in (
        (lambda text: text[:-100], r"pack\.jsonl:19: not readable as JSON"),
        (lambda text: text.rstrip(b"\n").rpartition(b"\n")[0], "has 5 of 6 videos of val"),
        (lambda text: text.replace(b'"label"', b'"lable"'), r"pack\.jsonl:3: not a line"),
        (lambda text: text.replace(b'pack": 1', b'pack": 2'), "has version 2 of packed data"),
        (lambda text: b"[]\n" + text, r"pack\.jsonl:1: not a line of packed data"),
    ):
        with pytest.raises(ValueError, match=match):
            read_dataset(damaged("pack.jsonl", change))
    # other bytes, of the same length
    record = read_dataset(packed).train[1]
    place = record.path.start + record.path.length // 2
    flip = damaged(
        record.path.shard.name,
        lambda data: data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :],
    )
    report = check_dataset(read_dataset(flip))
    assert [(f.kind, f.path) for f in report.findings] == [
        ("unreadable", f"{flip}/train/different/00002.mp4")
    ]
    assert "has other bytes there than were packed" in report.findings[0].text
    # a shard that vanishes later is an error of its videos
    lost = damaged("", bytes)
    data = read_dataset(lost)
    (lost / "val-000000.tar").unlink()
    with pytest.raises(VideoError, match=r"val-000000\.tar: No such file"):
        probe(data.val[0].path)


def test_clips_are_those_of_the_files_in_any_process(loose, packed):
    transform = TrainTransform(32, (32, 36), 0.5)
    draws = [Draw(i % 6, seed=i) for i in range(12)]
    found = []
    for path, workers in ((loose, 0), (packed, 2)):
        data = VideoDataset(read_dataset(path).train, 2, ClipSpec(4, 2), transform, train=True)
        data[0]  # opens a shard, before processes are forked
        loader = DataLoader(data, batch_size=None, sampler=draws, num_workers=workers)
        found.append(list(loader))
    for (clip, target, i), (other, label, k) in zip(*found, strict=True):
        assert torch.equal(clip, other)
        assert (target, i) == (label, k)


def test_a_packed_video_can_be_named_as_a_file(packed, tmp_path):
    name = "train/same/00001.mp4"
    data = read_dataset(packed)
    (video,) = (r.path for r in data.train if r.name == "same/00001.mp4")
    assert str(video) == f"{packed}/{name}"
    assert torch.equal(decode_all(packed / name), decode_all(video))
    with pytest.raises(VideoError, match="no such file"):
        probe(packed / "train/same/9.mp4")
    write(tmp_path / "some.txt", f"{packed}/{name} 1\n{packed}/val/same/00001.mp4 0\n")
    assert read_dataset(tmp_path / "some.txt").train[0].path == video


def test_the_command(loose, tmp_path, capsys, in_this_process):
    words = ["data", "pack", str(loose), str(tmp_path / "out"), "--shard-size"]
    assert main([*words, "30 kB"]) == 0
    assert main([*words, "0.03MB"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "12 videos in 6 tar files, 0 of them there before" in said
    assert "12 videos in 6 tar files, 12 of them there before" in said
    for size in ("1 XB", "GB", "-1GB", "0", "1e9"):
        assert main([*words, size]) == 2
        assert "--shard-size" in capsys.readouterr().err
    good = tmp_path / "good"
    check = ["data", "check", str(tmp_path / "out"), "--workers", "1", "--out", str(good)]
    assert main(check) == 0
    assert [r.labels for r in read_dataset(good).train] == [(0,)] * 3 + [(1,)] * 3
    assert main(["data", "resize", str(tmp_path / "out"), str(tmp_path / "small")]) == 2
    assert "is packed: resize the files" in capsys.readouterr().err
