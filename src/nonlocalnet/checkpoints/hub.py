"""Share networks on the Hugging Face Hub; needs the extra `hub`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from huggingface_hub import ModelHubMixin, hf_hub_download

from nonlocalnet.checkpoints.load import load
from nonlocalnet.checkpoints.metadata import WeightsInfo
from nonlocalnet.checkpoints.save import save_weights
from nonlocalnet.networks.video_resnet import VideoResNet

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
"""


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
        model.__class__ = cls
        assert isinstance(model, cls)
        return model

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
