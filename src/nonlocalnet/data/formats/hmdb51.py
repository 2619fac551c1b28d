"""HMDB51."""

from __future__ import annotations

from pathlib import Path

from nonlocalnet.data.formats.base import Annotations, Entry, Source
from nonlocalnet.data.formats.text import read_lines
from nonlocalnet.errors import shown


def matches(source: Source) -> bool:
    """Whether there is a list of any split, CLASS_test_split1.txt."""
    return source.find_file("*_test_split[123].txt") is not None


def read(source: Source) -> Annotations:
    """Read CLASS_test_split1.txt, or 2, 3: "VIDEO 1" is for training, 2 for the test, 0 unused.

    Raises:
        ValueError: there is no such split, or a line has another form.
    """
    ending = f"_test_split{source.split}.txt"
    first = source.find_file(f"*{ending}") or source.path / f"CLASS{ending}"
    source.check_split(first)
    parts: dict[str, list[Entry]] = {"0": [], "1": [], "2": []}
    classes = sorted(file.name.removesuffix(ending) for file in first.parent.glob(f"*{ending}"))
    for label in classes:
        for where, line in read_lines(first.with_name(label + ending)):
            name, *use = line.rsplit(maxsplit=1)
            if use not in (["0"], ["1"], ["2"]):
                raise ValueError(f'{where}: expected "VIDEO 0", 1 or 2, got {shown(line)}')
            path = source.videos.find(Path(name).stem, label)
            parts[use[0]].append(Entry(name, label, path, where))
    return Annotations(parts["1"], parts["2"], classes)
