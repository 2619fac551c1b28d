"""Share networks on the Hugging Face Hub; needs the extra `hub`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelHubMixin, hf_hub_download

from nonlocalnet.checkpoints.load import load
from nonlocalnet.checkpoints.metadata import WeightsInfo
from nonlocalnet.checkpoints.save import save_weights
from nonlocalnet.errors import printable
from nonlocalnet.networks.video_resnet import VideoResNet

CELL = 500  # characters of a value on the card
FILE = "model.safetensors"
CARD = """\
---
{{ card_data }}
---

A non-local video network (Wang, Girshick, Gupta, He, CVPR 2018) of the library nonlocalnet:

```python
from nonlocalnet.checkpoints.hub import HubNetwork

model = HubNetwork.from_pretrained("{{ repo_id | default("USER/NAME", true) }}")
```

| | |
|---|---|
{% for name, value in details %}| {{ name }} | {{ value }} |
{% endfor %}
{% if classes %}## Classes

{{ classes }}
{% endif %}"""


class HubNetwork(
    VideoResNet,
    ModelHubMixin,
    library_name="nonlocalnet",
    pipeline_tag="video-classification",
    tags=["non-local-neural-networks"],
    paper_url="https://arxiv.org/abs/1711.07971",
    model_card_template=CARD,
):
    """A network that can be pushed to the Hub and loaded from it, by huggingface_hub's mixin.

    `HubNetwork.from_pretrained("USER/NAME")` returns what `nl.load` returns, from a repository or a
    folder. `HubNetwork.of(model).push_to_hub("USER/NAME")` uploads a network and its description;
    `.save_pretrained(folder)` writes the same files. Only our safetensors are read, so no code in a
    repository is run.

    Raises:
        ValueError: the repository's file is not one of ours.
        huggingface_hub.errors.HfHubHTTPError: there is no such repository, or no network.
    """

    @classmethod
    def of(cls, model: VideoResNet) -> HubNetwork:
        """Return the same network, not a copy, with the methods of the Hub."""
        kind = type(model)
        if not issubclass(kind, cls):
            # a class made from VideoResNet, such as SlowFast, keeps its own methods
            model.__class__ = cls if kind is VideoResNet else type(cls.__name__, (cls, kind), {})
        assert isinstance(model, cls)
        return model

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """Write the card: the network, its input and, where the file says so, origin and scores."""
        info = getattr(self, "info", None) or WeightsInfo(config=self.config)
        own = {"details": describe(info), "classes": ", ".join(map(_cell, info.classes))}
        return super().generate_model_card(*args, **own, **kwargs)

    def _save_pretrained(self, save_directory: Path) -> None:
        info = getattr(self, "info", None) or WeightsInfo(config=self.config)
        save_weights(self, save_directory / FILE, info)
        # the Hub counts downloads by this file, and people read it there
        text = json.dumps({"nonlocalnet": dataclasses.asdict(info)}, indent=2)
        (save_directory / "config.json").write_text(text + "\n")

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        **options: Any,
    ) -> HubNetwork:
        path = Path(model_id) / FILE
        if not path.parent.is_dir():
            path = hf_hub_download(
                model_id,
                FILE,
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
                token=token,
            )
        return cls.of(load(path, **options))


def describe(info: WeightsInfo) -> list[tuple[str, str]]:
    """Describe a network as rows (name, value) of a Markdown table."""
    config = dict(info.config)
    average = {"probabilities": "mean probability", "logits": "mean logit"}[info.views.average]
    clips = "" if info.views.num_clips is None else f"{info.views.num_clips} clips, "
    rows = [
        ("network", config.pop("name", "")),
        ("clip", config.pop("clip", "")),
        ("input", f"RGB, short side {info.short_side}, mean {info.mean}, std {info.std}"),
        ("test", f"{clips}{info.views.num_crops} crops, {average}"),
        ("labels", "several per video" if info.multi_label else "one per video"),
        *((name.replace("_", " "), value) for name, value in {**config, **info.facts}.items()),
    ]
    return [(_cell(name), _cell(value)) for name, value in rows if value not in ("", None)]


def _cell(value: Any) -> str:
    """Write a value for a cell of a table; what it holds may be of foreign origin."""
    if isinstance(value, dict):
        value = ", ".join(f"{key} {each}" for key, each in value.items())
    text = printable(value, CELL)
    return "".join(f"\\{c}" if c in "|<>`[]{}*_\\" else c for c in text)
