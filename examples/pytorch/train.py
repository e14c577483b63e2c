"""Trains the PyTorch version of the digits example and exports it.

    python examples/pytorch/train.py [FOLDER]

Needs scikit-learn and torch. The data and the held-out quarter are those of examples/digits, and so is the
form of the model's answers: mdslite splits traffic between the two as between any versions.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

SEED = 20
EPOCHS = 40


class Digits(nn.Module):  # type: ignore[misc]
    """pixels FP32 [rows, 64], 0 to 16 → label INT64 [rows] and probabilities FP32 [rows, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(256, 10),
        )

    def scores(self, pixels: torch.Tensor) -> torch.Tensor:
        scored: torch.Tensor = self.layers(pixels.reshape(-1, 1, 8, 8) / 16)
        return scored

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        probabilities = torch.softmax(self.scores(pixels), dim=1)
        return {"label": probabilities.argmax(dim=1), "probabilities": probabilities}


def train(model: Digits, pixels: torch.Tensor, labels: torch.Tensor) -> None:
    """Fit on every digit as it is and moved by a pixel each way."""
    images = pixels.reshape(-1, 8, 8)
    moved = [images.roll(by, dims=axis) for axis in (1, 2) for by in (1, -1)]
    data = torch.cat([images, *moved]).reshape(-1, 64)
    targets = labels.repeat(1 + len(moved))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    model.train()
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(data)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model.scores(data[rows]), targets[rows]).backward()
            optimizer.step()
        schedule.step()


def export(model: Digits, file: Path) -> None:
    """Write an exported program that takes any number of rows."""
    rows = torch.export.Dim("rows")
    example = (torch.zeros(2, 64),)
    program = torch.export.export(model.eval(), example, dynamic_shapes=({0: rows},))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # where each line stood on the machine that trained
    torch.export.save(program, file)


def main(folder: Path) -> None:
    torch.manual_seed(SEED)
    pixels, labels = load_digits(return_X_y=True)
    split: list[Any] = train_test_split(pixels, labels, test_size=0.25, random_state=SEED, stratify=labels)
    train_pixels, test_pixels, train_labels, test_labels = map(torch.as_tensor, split)
    model = Digits()
    train(model, train_pixels.float(), train_labels)
    file = folder / "digits.pt2"
    export(model, file)
    found = torch.export.load(file).module()(test_pixels.float())["label"]
    accuracy = float((found == test_labels).float().mean())
    print(f"{file.name}: {accuracy:.1%} right of {len(found)} held out, {file.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
