"""Train a video network with non-local blocks in PyTorch Lightning.

    pip install lightning
    python examples/lightning_module.py [--smoke]

The network, its blocks and the clips are ordinary modules and tensors: nothing is needed besides
the module below. The videos are made up: two squares that move, of the same color or not.
"""

import argparse
import tempfile
from pathlib import Path

import lightning
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader

import nonlocalnet as nl
from nonlocalnet.clips import ClipSpec
from nonlocalnet.data.dataset import VideoDataset
from nonlocalnet.data.datasets import read_dataset
from nonlocalnet.data.synthetic import write_same_color
from nonlocalnet.data.transforms import TestTransform, TrainTransform, normalize

CLIP = "4x2"


class VideoClassifier(lightning.LightningModule):
    """A network of the table, trained with SGD as in the paper."""

    def __init__(self, model: str, lr: float, **options):
        super().__init__()
        self.save_hyperparameters()
        self.network = nl.create_model(model, **options)

    def training_step(self, batch, index):
        clips, labels, _ = batch  # uint8 (B, 3, T, H, W)
        loss = F.cross_entropy(self.network(normalize(clips)), labels)
        self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch, index):
        views, labels, _ = batch  # uint8 (B, 1, 3, T, H, W): one view of each video
        answers = self.network(normalize(views[:, 0])).argmax(1)
        accuracy = (answers == labels).float().mean()
        self.log("accuracy", accuracy, prog_bar=True)

    def configure_optimizers(self):
        return torch.optim.SGD(
            self.parameters(), self.hparams.lr, momentum=0.9, weight_decay=1e-4, nesterov=True
        )


def open_videos(folder: Path, *, train: bool) -> VideoDataset:
    """Clips of the videos CLASS/*.mp4, with the class as target."""
    found = read_dataset(folder)
    transform = TrainTransform(32, 32) if train else TestTransform(32, 32)
    clip = ClipSpec.parse(CLIP)
    return VideoDataset(found.train, len(found.classes), clip, transform, train=train, cache=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="few videos, one epoch")
    smoke = parser.parse_args().smoke
    module = VideoClassifier("c2d_tiny_nl2", lr=0.1, num_classes=2, clip=CLIP, crop=32, dropout=0.0)
    with tempfile.TemporaryDirectory() as folder:
        parts = []
        for name, count in (("train", 8), ("val", 4)) if smoke else (("train", 400), ("val", 100)):
            write_same_color(Path(folder, name), count, seed=len(parts))
            parts.append(open_videos(Path(folder, name), train=name == "train"))
    train = DataLoader(parts[0], batch_size=4 if smoke else 32, shuffle=True)
    trainer = lightning.Trainer(
        max_epochs=1 if smoke else 30,
        gradient_clip_val=1.0,
        accelerator="auto",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=not smoke,
    )
    trainer.fit(module, train, DataLoader(parts[1], batch_size=32))
    print(f"accuracy {trainer.callback_metrics['accuracy']:.1%}")


if __name__ == "__main__":
    main()
