"""Small PyTorch models for the tests. Each builder writes one file and returns its path; the docstring gives
inputs → outputs, with `N` the free row dimension. Import it after `pytest.importorskip("torch")`."""

from __future__ import annotations

import itertools
import warnings
from pathlib import Path
from typing import Any

import torch
from torch.export import Dim

ROWS = Dim("rows")


def export(path: Path, module: torch.nn.Module, *example: Any, shapes: Any = None, **named: Any) -> Path:
    """Write an exported program; `shapes` are its `dynamic_shapes`, by default free rows for every input."""
    if shapes is None:
        shapes = tuple({0: ROWS} for _ in example)
    program = torch.export.export(module, example, named or None, dynamic_shapes=shapes)
    torch.export.save(program, path)
    return path


def script(path: Path, module: torch.nn.Module) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(module), path)
    return path


def trace(path: Path, module: torch.nn.Module, *example: Any) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(module, example, strict=False), path)
    return path


class Module(torch.nn.Module):
    """What models are made of, as a class of a known type: mypy does not read PyTorch."""


class Mlp(Module):
    """x FP32 [N, 4] → FP32 [N, 3], probabilities."""

    def __init__(self, dims: tuple[int, ...] = (4, 8, 3), *, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        layers: list[torch.nn.Module] = []
        for before, after in itertools.pairwise(dims):
            layers += [torch.nn.Linear(before, after), torch.nn.ReLU()]
        self.layers = torch.nn.Sequential(*layers[:-1])
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.layers(x), -1)


class Division(Module):
    """x, y → x / y, rounded towards zero."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.div(x, y, rounding_mode="trunc")


class Linear(torch.nn.Linear):
    """input FP32 [N, 4] → FP32 [N, 3]."""

    def __init__(self) -> None:
        super().__init__(4, 3)


class Identity(Module):
    """x → the same."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Named(Module):
    """a FP32 [N, 2], b FP32 [N, 2] → sum [N, 2], and parts.0 [N], parts.1 [N, 1]."""

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> dict[str, Any]:
        return {"sum": a + b, "parts": (a.sum(1), b[:, :1])}


class Pair(Module):
    """x FP32 [N, 2] → output_0 [N, 2] = 2x, output_1 [N] = the sum of each row."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return 2 * x, x.sum(1)


class Gather(Module):
    """index INT64 [N, 1] → FP32 [N, 1], ten times it. An index outside of the table of 8 fails the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.arange(8, dtype=torch.float32) * 10)

    def forward(self, index: torch.Tensor) -> torch.Tensor:
        return self.table[index]


class Refusing(Module):
    """x FP32 [N, 4] → FP32 [N, 3]; raises on a negative value, and on nothing but zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if bool((x < 0).any()):
            raise ValueError("negative values are not for me")
        if not bool((x != 0).any()):
            raise ValueError("nothing but zeros")
        return self.linear(x)


class Turns(Module):
    """turns INT64 [N] → INT64 [N], the same after as many turns of a loop as the greatest of them."""

    def forward(self, turns: torch.Tensor) -> torch.Tensor:
        count = int(turns.max())
        done = torch.zeros_like(turns)
        for _ in range(count):
            done = done + 1
        return torch.minimum(done, turns)


class Convolution(Module):
    """image FP32 [N, 3, H, W] → FP32 [N, 2, H, W]."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(3, 2, 3, padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.first(image)


class Tokens(Module):
    """ids INT64 [N, L], mask INT64 [N, L] → FP32 [N, 5], by way of an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(16, 5)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return (self.table(ids) * mask.unsqueeze(-1)).sum(1)


class Writer(Module):
    """x FP32 [N, 2] → x + 1, written over x."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.add_(1)


class Counter(Module):
    """x FP32 [N, 2] → x + how often this has run."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("runs", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.runs.add_(1)
        return x + self.runs


class Hungry(Module):
    """size INT64 [N, 1] → FP32 [N, 1], by way of as many FP32 as the sum of `size`."""

    def forward(self, size: torch.Tensor) -> torch.Tensor:
        big = torch.zeros([int(size.sum())])
        return size + big.sum()


class Masked(Module):
    """x FP32 [N, 4], mask FP32 [N, 1] (may be left out) → FP32 [N, 3]."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 3)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        y = self.linear(x)
        return y if mask is None else y * mask


class Repeat(Module):
    """x and a whole number → x, so many times."""

    def forward(self, x: torch.Tensor, count: int) -> torch.Tensor:
        return x.repeat(count, 1)
