"""PyTorch: tensors instead of a DataLoader, and the fused Adam; eager, and with torch.compile."""

from __future__ import annotations

from itertools import pairwise

import torch

from benchmarks.rivals.problems import BETA_1, BETA_2, EPSILON, LEARNING_RATE, Training


class Trainer:
    def __init__(self, training: Training, threads: int) -> None:
        torch.set_num_threads(threads)
        self.training = training
        self.X = torch.from_numpy(training.X)
        self.y = torch.from_numpy(training.y)[:, None]
        layers: list[torch.nn.Module] = []
        for fan_in, fan_out in pairwise(training.workload.layer_sizes):
            layers += [torch.nn.Linear(fan_in, fan_out, dtype=self.X.dtype), torch.nn.ReLU()]
        self.network = torch.nn.Sequential(*layers[:-1])
        self.criterion = torch.nn.BCEWithLogitsLoss()
        self.loss = self.loss_of()

    def loss_of(self):
        """The function of a batch that gives its loss."""
        return lambda X, y: self.criterion(self.network(X), y)

    def prepare(self, epochs: int) -> None:
        linear = [layer for layer in self.network if isinstance(layer, torch.nn.Linear)]
        with torch.no_grad():
            for layer, (weights, intercepts) in zip(linear, self.training.layers(), strict=True):
                layer.weight.copy_(torch.from_numpy(weights.T))
                layer.bias.copy_(torch.from_numpy(intercepts))
        self.optimizer = torch.optim.Adam(
            self.network.parameters(),
            lr=LEARNING_RATE,
            betas=(BETA_1, BETA_2),
            eps=EPSILON,
            fused=True,
        )
        self.orders = [torch.from_numpy(order).long() for order in self.training.orders(epochs)]

    def run(self) -> list[float]:
        return [self._epoch(order) for order in self.orders]

    def _epoch(self, order: torch.Tensor) -> float:
        X, y, optimizer, loss_of = self.X, self.y, self.optimizer, self.loss
        losses = []
        for rows in order.split(self.training.workload.batch):
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(X.index_select(0, rows), y.index_select(0, rows))
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        return torch.stack(losses).mean().item()


class CompiledTrainer(Trainer):
    """Forward, loss and backward as one compiled graph each way."""

    def loss_of(self):
        torch.compiler.reset()  # of the workload before, whose shapes would make these dynamic
        return torch.compile(super().loss_of(), dynamic=False)
