"""The two models of the stock library with random weights, of a tiny size or of the real one; their
answers mean nothing.

    python -m tests.stock_models FOLDER

writes those of the real size, for a measurement.
"""

import sys
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from transformers import (
    DetrImageProcessor,
    ResNetConfig,
    TableTransformerConfig,
    TableTransformerForObjectDetection,
)

from tests import tiny_models

CLASSES, TABLE = 11, 8
SEEN = (1, 3, 1024, 768)
CELLS = sum((1024 // s) * (768 // s) for s in (8, 16, 32))


class _Graph:
    """Nodes and weights of an ONNX file in the making; each method adds to it and names what it
    made."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.random = np.random.default_rng(7)

    def add(self, kind: str, *inputs: str, **attributes: object) -> str:
        name = f"{kind}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def weight(self, values: np.ndarray) -> str:
        name = f"weight{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def conv(
        self, x: str, inside: int, out: int, size: int = 1, stride: int = 1, gain: float = 1
    ) -> str:
        """A convolution and SiLU."""
        spread = gain * (2.8 / (inside * size * size)) ** 0.5
        values = self.random.normal(0, spread, (out, inside, size, size)).astype(np.float32)
        made = self.add(
            "Conv", x, self.weight(values), self.weight(np.zeros(out, np.float32)),
            kernel_shape=[size, size], strides=[stride, stride], pads=[size // 2] * 4,
        )  # fmt: skip
        return self.add("Mul", made, self.add("Sigmoid", made))

    def answer(self, x: str, inside: int, *, middle: list[float], spread: float) -> str:
        """Values around `middle`, one channel each, whatever came before: random weights know no
        measure."""
        one, zero = (self.weight(np.full(inside, v, np.float32)) for v in (1, 0))
        even = self.add("Tanh", self.add("InstanceNormalization", x, one, zero))
        shape = (len(middle), inside, 1, 1)
        values = self.random.normal(0, spread / inside**0.5, shape).astype(np.float32)
        return self.add(
            "Conv", even, self.weight(values), self.weight(np.array(middle, np.float32))
        )

    def join(self, *parts: str, axis: int = 1) -> str:
        return self.add("Concat", *parts, axis=axis)

    def csp(self, x: str, inside: int, out: int, depth: int, *, residual: bool) -> str:
        """Cross-stage partial: one half goes through `depth` bottlenecks, the other around them."""
        half = out // 2
        through, around = self.conv(x, inside, half), self.conv(x, inside, half)
        for _ in range(depth):
            made = self.conv(self.conv(through, half, half), half, half, 3, gain=0.3)
            through = self.add("Add", made, through) if residual else made
        return self.conv(self.join(through, around), out, out)

    def double(self, x: str) -> str:
        scales = self.weight(np.array([1, 1, 2, 2], np.float32))
        return self.add("Resize", x, "", scales, mode="nearest")


def layout_model(path: Path, *, tiny: bool = True) -> Path:
    """A YOLOX-L (54 million weights) as the library's own file has it: boxes not decoded, one row per
    cell of three grids; few cells fire."""
    g = _Graph()
    w, n = (4, 1) if tiny else (64, 3)  # channels of the stem, bottlenecks of a short stage
    shades = g.add("Div", "images", g.weight(np.array(255, np.float32)))
    quarters = [
        g.add("Slice", shades, *(g.weight(np.array(v, np.int64)) for v in (
            [down, right], [SEEN[2], SEEN[3]], [2, 3], [2, 2])))
        for right in (0, 1) for down in (0, 1)
    ]  # fmt: skip
    x = g.conv(g.join(*quarters), 12, w, 3)
    x = g.csp(g.conv(x, w, 2 * w, 3, 2), 2 * w, 2 * w, n, residual=True)
    fine = g.csp(g.conv(x, 2 * w, 4 * w, 3, 2), 4 * w, 4 * w, 3 * n, residual=True)
    middle = g.csp(g.conv(fine, 4 * w, 8 * w, 3, 2), 8 * w, 8 * w, 3 * n, residual=True)
    x = g.conv(g.conv(middle, 8 * w, 16 * w, 3, 2), 16 * w, 8 * w)
    pooled = [
        g.add("MaxPool", x, kernel_shape=[k, k], strides=[1, 1], pads=[k // 2] * 4)
        for k in (5, 9, 13)
    ]
    x = g.conv(g.join(x, *pooled), 32 * w, 16 * w)
    x = g.csp(x, 16 * w, 16 * w, n, residual=False)

    coarse = g.conv(x, 16 * w, 8 * w)
    x = g.csp(g.join(g.double(coarse), middle), 16 * w, 8 * w, n, residual=False)
    reduced = g.conv(x, 8 * w, 4 * w)
    small = g.csp(g.join(g.double(reduced), fine), 8 * w, 4 * w, n, residual=False)
    x = g.join(g.conv(small, 4 * w, 4 * w, 3, 2), reduced)
    medium = g.csp(x, 8 * w, 8 * w, n, residual=False)
    x = g.join(g.conv(medium, 8 * w, 8 * w, 3, 2), coarse)
    large = g.csp(x, 16 * w, 16 * w, n, residual=False)

    rows = [
        _head(g, part, inside, 4 * w, 3 if tiny else -1)
        for part, inside in ((small, 4 * w), (medium, 8 * w), (large, 16 * w))
    ]
    g.add("Transpose", g.join(*rows, axis=2), perm=[0, 2, 1])
    graph = helper.make_graph(
        g.nodes, "yolox",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, SEEN)],
        [helper.make_tensor_value_info(g.nodes[-1].output[0], TensorProto.FLOAT, (1, CELLS, 5 + CLASSES))],
        g.weights,
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path
    )
    return path


def _head(g: _Graph, x: str, inside: int, width: int, table: float) -> str:
    """Box, whether there is something, and class, for each cell of a grid; `table` makes tables
    frequent or rare."""
    kinds_middle = [table if kind == TABLE else 0.0 for kind in range(CLASSES)]
    x = g.conv(x, inside, width)
    kinds = g.conv(g.conv(x, width, width, 3), width, width, 3)
    places = g.conv(g.conv(x, width, width, 3), width, width, 3)
    found = g.join(
        g.answer(places, width, middle=[0, 0, 2, 1], spread=0.5),
        g.add("Sigmoid", g.answer(places, width, middle=[-6], spread=4)),
        g.add("Sigmoid", g.answer(kinds, width, middle=kinds_middle, spread=2)),
    )
    return g.add("Reshape", found, g.weight(np.array([1, 5 + CLASSES, -1], np.int64)))


def table_model(folder: Path, *, tiny: bool = True) -> Path:
    """A table transformer; the real size has a ResNet of 18 layers and 29 million weights."""
    if tiny:
        return tiny_models.table_model(folder)
    torch.manual_seed(7)
    config = TableTransformerConfig(
        use_timm_backbone=False, use_pretrained_backbone=False, backbone=None,
        backbone_config=ResNetConfig(
            embedding_size=64, hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2],
            layer_type="basic", out_features=["stage4"],
        ),
        num_queries=125, id2label=dict(enumerate(tiny_models.TABLE)),
        label2id={n: i for i, n in enumerate(tiny_models.TABLE)},
    )  # fmt: skip
    TableTransformerForObjectDetection(config).save_pretrained(folder)
    DetrImageProcessor(size={"shortest_edge": 800, "longest_edge": 1333}).save_pretrained(folder)
    return folder


if __name__ == "__main__":
    out = Path(sys.argv[1])
    print(layout_model(out / "yolox.onnx", tiny=False), table_model(out / "table", tiny=False))
