"""Options of a run: each takes values of its own types, wherever they come from."""

import json
from pathlib import Path
from types import NoneType

import pytest

from nonlocalnet.options import types_of
from nonlocalnet.training.config import TrainConfig

TYPES = types_of(TrainConfig)
ODD = [None, True, 1, -1.5, float("nan"), "x" * 5000, "\x1b[31m", [[]], {}, 10**400]


@pytest.mark.parametrize("name", TYPES)
def test_a_damaged_value_is_refused_or_of_the_right_type(tmp_path, name):
    values = json.loads(TrainConfig(data=tmp_path, out=tmp_path).as_json())
    kinds = set(TYPES[name])
    said = []
    for value in ODD:
        try:
            config = TrainConfig.from_json(json.dumps(values | {name: value}))
        except ValueError as error:
            said.append(str(error))
            continue
        if isinstance(value, str):
            assert kinds & {str, Path}
            assert str(getattr(config, name)) == value
        else:
            assert getattr(config, name) == value
            assert kinds & ({int, float} if type(value) is int else {type(value), NoneType})
    assert all(text.isprintable() and 0 < len(text) < 1200 for text in said)
