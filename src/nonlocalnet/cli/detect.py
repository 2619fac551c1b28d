"""Find objects in images: boxes and classes, with masks or with keypoints of persons."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from nonlocalnet.cli.network import NetworkOptions, check_weights, load_network
from nonlocalnet.errors import FileError
from nonlocalnet.options import setting

if TYPE_CHECKING:
    from nonlocalnet.detection.detect import Detections

# torchvision's IMG_EXTENSIONS, and .gif
SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif")
SHOWN = 3  # classes of each of many images
FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}  # a picture of others is a .png


@dataclass(frozen=True, kw_only=True)
class Options(NetworkOptions):
    """Options of `nonlocalnet detect`."""

    images: tyro.conf.Positional[tuple[Path, ...]]
    """Image files, or folders of images. Images are rotated according to their EXIF data."""
    weights: Path
    """Weights of a detector: a file, such as best.safetensors from `nonlocalnet train`, or a
    release, which is downloaded: maskrcnn_resnet50_fpn_coco or keypointrcnn_resnet50_fpn_coco,
    torchvision's networks trained on COCO (`nonlocalnet zoo`)."""
    score: float = setting(0.5, least=0, below=1)
    """Leave out objects whose score is not above this."""
    top: int = setting(100, least=1)
    """Largest number of objects per image."""
    out: Path = Path("detections")
    """Folder for the pictures and detections.json."""
    json: bool = False
    """Print one JSON object per image instead of a table."""


def command(options: Options) -> int:
    if not options.images:
        raise ValueError("name at least one image: nonlocalnet detect IMAGE --weights W")
    if options.out.exists() and not options.out.is_dir():
        raise ValueError(f"--out is a folder; {options.out} is a file")
    files = list(_find(options.images))
    pictures = _name_pictures(files, options.out)
    check_weights(options.weights)
    if not any(file.exists() for file in files):
        others = ", and none of the other images exists" if len(files) > 1 else ""
        raise FileError(files[0], f"no such file{others}")

    import json

    from nonlocalnet.detection.annotations import CocoError
    from nonlocalnet.detection.detect import detect
    from nonlocalnet.runtime.atomic import write_atomically
    from nonlocalnet.runtime.log import Bar, status

    model = load_network(options.weights, None, options.set, options.device, takes="images")
    rows: list[dict[str, Any]] = []
    try:
        with Bar("detect", len(files)) as bar:
            for file, picture in zip(files, pictures, strict=True):
                try:
                    found = detect(model, file, score=options.score, top=options.top)
                except CocoError as error:
                    status.print(f"nonlocalnet: {error}", soft_wrap=True)
                else:
                    _draw(found, picture)
                    rows.append(_describe(found, file, picture))
                    if options.json:
                        print(json.dumps(rows[-1]), flush=True)
                bar.advance(text=file.name)
    finally:  # also after an error or Ctrl-C
        text = json.dumps(rows, indent=1) + "\n"
        write_atomically(options.out / "detections.json", lambda place: place.write_text(text))
        if rows and not options.json:
            _print(rows, options, one=len(files) == 1)
    status.print(f"wrote {options.out / 'detections.json'}", soft_wrap=True)
    failed = len(files) - len(rows)
    if failed and len(files) > 1:
        status.print(f"{failed} of {len(files)} images could not be read", soft_wrap=True)
    return 2 if failed else 0


def _describe(found: Detections, file: Path, picture: Path) -> dict[str, Any]:
    return {
        "file": str(file),
        "picture": str(picture),
        "width": found.image.shape[2],
        "height": found.image.shape[1],
        "objects": found.objects(),
    }


def _find(images: Sequence[Path]) -> Iterator[Path]:
    """Yield the files, each once; in folders, those with the suffix of an image."""
    seen = set()
    for place in images:
        inside = [place]
        if place.is_dir():
            there = sorted(place.iterdir())
            inside = [p for p in there if p.suffix.lower() in SUFFIXES and p.is_file()]
            if not inside:
                raise ValueError(f"{place} contains no image ({', '.join(SUFFIXES)})")
            if others := [p.name for p in there if p not in inside]:
                from nonlocalnet.runtime.log import status

                text = f"{place}: {len(others)} files without the suffix of an image are left out"
                status.print(f"{text}, {others[0]} for one", soft_wrap=True)
        for file in inside:
            if os.path.realpath(file) not in seen:
                seen.add(os.path.realpath(file))
                yield file


def _name_pictures(files: Sequence[Path], out: Path) -> list[Path]:
    """Name a picture after each image; the second picture of a name becomes NAME-2, and so on."""
    given = {os.path.realpath(file) for file in files}
    taken: set[str] = set()
    pictures = []
    for file in files:
        keep = file.suffix.lower() in FORMATS
        stem, suffix = (file.stem, file.suffix) if keep else (file.name, ".png")
        name, count = f"{stem}{suffix}", 1
        while name.casefold() in taken:
            count += 1
            name = f"{stem}-{count}{suffix}"
        taken.add(name.casefold())
        if os.path.realpath(out / name) in given:
            raise ValueError(f"{out / name} is an input image: choose another folder as --out")
        pictures.append(out / name)
    return pictures


def _draw(found: Detections, picture: Path) -> None:
    from torchvision.transforms.v2 import functional as F

    from nonlocalnet.detection.draw import draw_objects
    from nonlocalnet.runtime.atomic import write_atomically

    names = [f"{name} {score:.2f}" for name, score in zip(found.names, found.scores, strict=True)]
    drawn = F.to_pil_image(
        draw_objects(found.image, found.boxes, names, masks=found.masks, keypoints=found.keypoints)
    )
    options = {"format": FORMATS[picture.suffix.lower()], "quality": 92, "subsampling": 0}
    write_atomically(picture, lambda place: drawn.save(place, **options))


def _print(rows: list[dict[str, Any]], options: Options, *, one: bool) -> None:
    """Print the objects of one image, or the number of objects per class for each of several."""
    from rich.table import Table

    from nonlocalnet.runtime.log import console, print_table

    if not one:
        table = Table("picture", "objects", "surest", "classes")
        for row in rows:
            things = row["objects"]
            counts = Counter(thing["class"] for thing in things).most_common()
            told = [f"{count} {name}" for name, count in counts[:SHOWN]]
            if len(counts) > SHOWN:
                told.append(f"{len(counts) - SHOWN} more")
            surest = f"{things[0]['score']:.2f}" if things else "–"
            table.add_row(Path(row["picture"]).name, str(len(things)), surest, ", ".join(told))
        print_table(table)
        console.print(f"pictures are in {options.out}", soft_wrap=True)
        return
    (row,) = rows
    if not row["objects"]:
        console.print(f"{row['file']}: nothing above {options.score:g}", soft_wrap=True)
        return
    table = Table("object", "score", "box")
    for thing in row["objects"]:
        box = " ".join(f"{side:.0f}" for side in thing["box"])
        table.add_row(thing["class"], f"{thing['score']:.2f}", box)
    console.print(row["picture"], soft_wrap=True)
    print_table(table)
