"""Tiny models with random weights, saved as the real ones are; their answers mean nothing."""

import json
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizerFast,
    DetrImageProcessor,
    ResNetConfig,
    RTDetrImageProcessor,
    RTDetrV2Config,
    RTDetrV2ForObjectDetection,
    TableTransformerConfig,
    TableTransformerForObjectDetection,
)
from transformers.models.rt_detr import RTDetrResNetConfig

LAYOUT = ["Caption", "Footnote", "List-item", "Picture", "Section-header", "Table", "Text", "Title"]
TABLE = [
    "table", "table column", "table row", "table column header", "table projected row header",
    "table spanning cell",
]  # fmt: skip


def layout_model(folder: Path, names: list[str] | None = None, *, tiny: bool = True) -> Path:
    """An RT-DETR v2 with DocLayNet's class names, unless others are given; its scores are lifted so
    that some boxes show. The real size has a ResNet of 50 layers and 43 million weights."""
    torch.manual_seed(7)
    names = names or LAYOUT
    small = dict[str, Any](
        backbone_config=RTDetrResNetConfig(
            embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], layer_type="basic",
            out_features=["stage2", "stage3", "stage4"],
        ),
        encoder_in_channels=[8, 16, 16], encoder_hidden_dim=16, encoder_ffn_dim=16,
        encoder_attention_heads=2, decoder_in_channels=[16, 16, 16], d_model=16,
        decoder_ffn_dim=16, decoder_attention_heads=2, decoder_layers=2, num_queries=12,
        num_denoising=0, feat_strides=[8, 16, 32], num_feature_levels=3,
    )  # fmt: skip
    labels = {"id2label": dict(enumerate(names)), "label2id": {n: i for i, n in enumerate(names)}}
    config = RTDetrV2Config(**(small if tiny else {}), **labels)
    model = RTDetrV2ForObjectDetection(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "class_embed" in name and name.endswith("bias"):
                weight.fill_(0.0)
    model.save_pretrained(folder)
    side = 160 if tiny else 640
    RTDetrImageProcessor(size={"height": side, "width": side}).save_pretrained(folder)
    return folder


def table_model(folder: Path) -> Path:
    """A table transformer with its real class names, its files written as the published ones are:
    null for no, and one of the two edges."""
    torch.manual_seed(7)
    config = TableTransformerConfig(
        use_timm_backbone=False, use_pretrained_backbone=False, backbone=None,
        backbone_config=ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], layer_type="basic",
            out_features=["stage4"],
        ),
        d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=16, decoder_ffn_dim=16,
        encoder_attention_heads=2, decoder_attention_heads=2, num_queries=10,
        id2label=dict(enumerate(TABLE)), label2id={n: i for i, n in enumerate(TABLE)},
    )  # fmt: skip
    TableTransformerForObjectDetection(config).save_pretrained(folder)
    DetrImageProcessor(size={"shortest_edge": 200, "longest_edge": 200}).save_pretrained(folder)
    for name, change in (
        ("config.json", {"dilation": None, "use_pretrained_backbone": None, "backbone": None}),
        ("preprocessor_config.json", {"size": {"longest_edge": 200}}),
    ):
        path = folder / name
        path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **change}), "utf-8")
    return folder


def embedding_model(
    folder: Path, *, dimension: int = 32, prompts: dict[str, str] | None = None
) -> Path:
    """A BERT of two layers that knows letters, with random weights."""
    torch.manual_seed(7)
    base = folder / "base"
    base.mkdir(parents=True)
    letters = "abcdefghijklmnopqrstuvwxyz0123456789:.,"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters)]
    vocabulary = base / "vocab.txt"
    vocabulary.write_text("\n".join(words), encoding="utf-8")
    BertTokenizerFast(str(vocabulary)).save_pretrained(base)
    config = BertConfig(
        vocab_size=len(words), hidden_size=dimension, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=2 * dimension, max_position_embeddings=256, initializer_range=0.5,
    )  # fmt: skip
    BertModel(config).save_pretrained(base)
    reads = Transformer(str(base), max_seq_length=256)
    made = SentenceTransformer(modules=[reads, Pooling(dimension)], prompts=prompts, device="cpu")
    made.save(str(folder / "model"), safe_serialization=True)
    return folder / "model"
