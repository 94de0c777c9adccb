"""ONNX Runtime: prediction with bcenet's network written as an ONNX graph."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from bcenet import Network
from benchmarks.rivals.problems import Prediction

# Rows of a call that measured best: the activations between its layers stay in the cache.
BLOCK = 10_000


def exported(network: Network) -> onnx.ModelProto:
    """The network as Gemm, Relu, ..., Gemm, Sigmoid: from "X" (n, inputs) to "p" (n, outputs)."""
    nodes, constants, below = [], [], "X"
    last = len(network.coefs) - 1
    for i, (weights, intercepts) in enumerate(zip(network.coefs, network.intercepts, strict=True)):
        constants.append(numpy_helper.from_array(weights, f"W{i}"))
        constants.append(numpy_helper.from_array(intercepts, f"b{i}"))
        above = "p" if i == last else f"a{i}"
        nodes.append(helper.make_node("Gemm", [below, f"W{i}", f"b{i}"], [f"z{i}"]))
        nodes.append(helper.make_node("Sigmoid" if i == last else "Relu", [f"z{i}"], [above]))
        below = above
    sizes = network.layer_sizes
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, sizes[0]])],
        [helper.make_tensor_value_info("p", TensorProto.FLOAT, [None, sizes[-1]])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


class Predictor:
    """One `session.run` for all rows."""

    def __init__(self, prediction: Prediction, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            exported(prediction.network).SerializeToString(),
            options,
            providers=["CPUExecutionProvider"],
        )
        self.X = prediction.X

    def run(self) -> np.ndarray:
        return self.session.run(["p"], {"X": self.X})[0][:, 0]


class TunedPredictor(Predictor):
    """One row through bound buffers, many rows in blocks."""

    def __init__(self, prediction: Prediction, threads: int) -> None:
        super().__init__(prediction, threads)
        self.p = np.empty((len(self.X), 1), np.float32)
        if len(self.X) == 1:
            # A copy, because the bound input lies where the array given here does.
            self.bound_X = onnxruntime.OrtValue.ortvalue_from_numpy(self.X.copy())
            self.bound_p = onnxruntime.OrtValue.ortvalue_from_numpy(self.p)
            self.binding = self.session.io_binding()
            self.binding.bind_ortvalue_input("X", self.bound_X)
            self.binding.bind_ortvalue_output("p", self.bound_p)
            self.run = self._run_bound

    def _run_bound(self) -> np.ndarray:
        self.bound_X.update_inplace(self.X)
        self.session.run_with_iobinding(self.binding)
        return self.bound_p.numpy()[:, 0]

    def run(self) -> np.ndarray:
        for start in range(0, len(self.X), BLOCK):
            rows = slice(start, start + BLOCK)
            self.p[rows] = self.session.run(["p"], {"X": self.X[rows]})[0]
        return self.p[:, 0]
