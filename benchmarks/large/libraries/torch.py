"""PyTorch with a DataLoader, in the form of it that costs least.

The sampler gives the rows of a whole batch as one tensor (a slice where the order is the file's),
and the dataset takes them at once: there is no Python code for a row and nothing to collate. Worker
processes (``num_workers``) make it slower here, since each batch must then be sent. The rows of a
file are mapped; of words, columns and values (batch, 60) go to an EmbeddingBag with sparse
gradients, which needs no offsets then. The optimizers are the fused ones where these exist, and
SparseAdam for the EmbeddingBag. torch.compile is left out: it was slower in `benchmarks.rivals`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from benchmarks.large.problems import SEED, Training

_ACTIVATIONS = {"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh}


class _Rows(Dataset):
    def __init__(self, *tensors: torch.Tensor) -> None:
        self.tensors = tensors

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitem__(self, rows: torch.Tensor | slice) -> list[torch.Tensor]:
        if isinstance(rows, slice):
            return [tensor[rows] for tensor in self.tensors]
        return [tensor.index_select(0, rows) for tensor in self.tensors]


class _Batches(Sampler):
    def __init__(self, rows: int, batch: int, shuffled: bool) -> None:
        self.rows, self.batch, self.shuffled = rows, batch, shuffled

    def __len__(self) -> int:
        return -(-self.rows // self.batch)

    def __iter__(self) -> Iterator[torch.Tensor | slice]:
        if self.shuffled:
            yield from torch.randperm(self.rows).split(self.batch)
        else:
            for first in range(0, self.rows, self.batch):
                yield slice(first, first + self.batch)


class _Dense(torch.nn.Module):
    """The network of an array X."""

    def __init__(self, layer_sizes: tuple[int, ...], activation: str) -> None:
        super().__init__()
        layers: list[torch.nn.Module] = []
        for fan_in, fan_out in pairwise(layer_sizes):
            layers += [torch.nn.Linear(fan_in, fan_out), _ACTIVATIONS.get(activation, _none)()]
        self.layers = torch.nn.Sequential(*layers[:-1])

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        return self.layers(X).squeeze(1)


class _Sparse(torch.nn.Module):
    """The network of columns and values: an EmbeddingBag is the first layer."""

    def __init__(self, layer_sizes: tuple[int, ...], activation: str) -> None:
        super().__init__()
        inputs, units, *above = layer_sizes
        self.weights = torch.nn.EmbeddingBag(inputs, units, mode="sum", sparse=True)
        torch.nn.init.normal_(self.weights.weight, std=0.01)
        self.intercepts = torch.nn.Parameter(torch.zeros(units))
        self.above: torch.nn.Module = torch.nn.Identity()
        if above:
            self.above = torch.nn.Sequential(_ACTIVATIONS[activation](), torch.nn.Linear(units, 1))

    def forward(self, columns: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        z = self.weights(columns, per_sample_weights=values) + self.intercepts
        return self.above(z).squeeze(1)


def _none() -> torch.nn.Module:
    return torch.nn.Identity()


def _whole(batch: list[torch.Tensor]) -> list[torch.Tensor]:
    return batch


class Trainer:
    def __init__(self, training: Training, threads: int) -> None:
        torch.set_num_threads(threads)
        self.training = training
        rows = _Rows(*self.inputs("train"), torch.from_numpy(training.y))
        batches = _Batches(len(rows), training.form.batch, training.shuffled)
        self.loader = DataLoader(rows, sampler=batches, batch_size=None, collate_fn=_whole)
        self.criterion = torch.nn.BCEWithLogitsLoss()

    def inputs(self, part: str) -> list[torch.Tensor]:
        """X of the mapped file; the columns and the values of words, in memory."""
        arrays = self.training.arrays(part)
        if self.training.workload.data == "words":
            columns, values = (np.array(array) for array in arrays)
            return [torch.from_numpy(columns.astype(np.int64)), torch.from_numpy(values)]
        return [torch.from_numpy(array) for array in arrays]

    def prepare(self, epochs: int) -> None:
        torch.manual_seed(SEED)
        workload, rate = self.training.workload, self.training.rate
        sparse = workload.data == "words"
        kind = _Sparse if sparse else _Dense
        self.network = kind(self.training.layer_sizes, workload.activation)
        adam = self.training.form.method == "adam"
        optimizer = torch.optim.Adam if adam else torch.optim.SGD
        dense = list(self.network.parameters())
        self.optimizers: list[torch.optim.Optimizer] = []
        if sparse:
            first = self.network.weights.weight
            dense = [parameter for parameter in dense if parameter is not first]
            of_sparse = torch.optim.SparseAdam if adam else optimizer
            self.optimizers.append(of_sparse([first], lr=rate))
        rate *= self.training.intercept_factor  # 1 where there is more than intercepts
        self.optimizers.append(optimizer(dense, lr=rate, fused=True))
        self.epochs = epochs

    def run(self) -> None:
        network, criterion, optimizers = self.network, self.criterion, self.optimizers
        for _ in range(self.epochs):
            for *inputs, y in self.loader:
                for optimizer in optimizers:
                    optimizer.zero_grad(set_to_none=True)
                criterion(network(*inputs), y).backward()
                for optimizer in optimizers:
                    optimizer.step()

    def test_scores(self) -> np.ndarray:
        with torch.inference_mode():
            return self.network(*self.inputs("test")).numpy()
