"""The embedding model: texts to unit vectors. Knows nothing of chunks or records."""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from transformers import PreTrainedTokenizerBase

from errors import InputError, QuireError
from pipeline.models.batching import best_device, lanes, side_by_side
from pipeline.models.weights import UNLOADABLE, folder_of, pinned

MAX_CHARACTERS = 20_000
_CPU_TOKENS = 1024
_GPU_TOKENS = 65_536
_BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}  # the last is Arm's


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A loaded model: texts to unit vectors, the same for any batch size up to rounding.

    `tokens` is how many tokens, padding included, go through the model at once; `lanes` how many
    such groups do side by side. `counter` is a tokenizer of its own: to count without padding changes
    what a shared one does for whoever pads at that moment.
    """

    name: str
    dimension: int
    device: str
    model: Any
    counter: Any
    tokens: int
    lanes: int = 1

    def encode(self, texts: Sequence[str]) -> list[list[float]]:
        """One unit vector per text; what does not fit the GPU's memory is halved."""
        cut = [t[:MAX_CHARACTERS] for t in texts]
        lengths = self._lengths(cut)
        order = sorted(range(len(cut)), key=lambda i: -lengths[i])
        groups = []
        while order:
            # Neighbours in length, as many as fit when padded to the first, the longest of them.
            size = max(1, self.tokens // lengths[order[0]])
            groups.append(order[:size])
            order = order[size:]
        made = side_by_side(self.lanes, self._vectors, [[cut[i] for i in g] for g in groups])
        found = dict(zip((i for g in groups for i in g), made, strict=True))
        return [found[i] for i in range(len(cut))]

    def _vectors(self, texts: list[str]) -> list[list[float]]:
        return self._unit(
            self.model.encode_document(
                texts, batch_size=len(texts), convert_to_tensor=True, show_progress_bar=False
            )
        )

    def encode_query(self, text: str) -> list[float]:
        found = self.model.encode_query(
            [text[:MAX_CHARACTERS]], convert_to_tensor=True, show_progress_bar=False
        )
        return self._unit(found)[0]

    def _lengths(self, texts: list[str]) -> list[int]:
        """Tokens per text: sorting by characters leaves almost half of a batch to padding."""
        if not isinstance(self.counter, PreTrainedTokenizerBase):
            return [1 + len(t) // 4 for t in texts]
        longest = int(self.model.max_seq_length or 512)
        given = (
            self.counter(texts, truncation=True, max_length=longest) if texts else {"input_ids": []}
        )
        return [max(1, len(ids)) for ids in given["input_ids"]]

    def _unit(self, vectors: Any) -> list[list[float]]:
        """Length 1 in float32; QuireError for a vector that is not a number."""
        vectors = vectors.to("cpu", torch.float32)
        if not bool(torch.isfinite(vectors).all()):
            raise QuireError(
                "embedding_invalid",
                f"The model {self.name} gave a vector that is not a number.",
                "Use another embedding model.",
            )
        made: list[list[float]] = torch.nn.functional.normalize(vectors, dim=1).tolist()
        return made


def load_encoder(name: str, *, threads: int | None = None) -> LoadedModel:
    """The model on the best device here; on a CPU in bfloat16 where that is quicker. There it
    uses so many threads, or all cores.

    `name` is a folder, `owner/name` or `owner/name@revision`. InputError for what cannot serve,
    Unavailable while the Hub cannot be asked.
    """
    device = best_device()
    wide = lanes(device, threads)
    folder = folder_of(name)
    try:
        model = SentenceTransformer(
            str(folder),
            device=device,
            local_files_only=True,
            model_kwargs={"use_safetensors": True, "dtype": _precision(device)},
        )
    except UNLOADABLE as bad:
        raise InputError(
            "model_unusable",
            f"{name} cannot be loaded as an embedding model.",
            "Use a sentence-transformers model with safetensors weights.",
        ) from bad
    dimension = int(model.get_embedding_dimension() or 0)
    loaded = LoadedModel(
        pinned(name, folder),
        dimension,
        device,
        model,
        copy.deepcopy(model.tokenizer),
        _budget(device, max(1, dimension)),
        wide,
    )
    try:
        usable = len(loaded.encode(["a"])[0]) == dimension
    except (*UNLOADABLE, AttributeError):
        usable = False
    if not usable:
        raise InputError(
            "model_unusable", f"{name} gives no vectors.", "Use a sentence-transformers model."
        )
    return loaded


def _precision(device: str) -> Any:
    if device == "cuda":
        return torch.float16
    return quicker(processor_flags(Path("/proc/cpuinfo")), _seconds)


def quicker(flags: set[str], seconds: Callable[[Any], float]) -> Any:
    """Half precision where a processor is quicker in it. One that has bfloat16 may multiply slower:
    100 against 175 GFLOPS with AVX-512 and no matrix unit."""
    if not _BFLOAT16 & flags:
        return torch.float32
    return min((torch.float32, torch.bfloat16), key=seconds)


def _seconds(kind: Any) -> float:
    """What a step of a small model takes when nothing disturbs it."""
    rows, weights = torch.ones(512, 384, dtype=kind), torch.ones(384, 384, dtype=kind)

    def once() -> float:
        began = time.perf_counter()
        torch.nn.functional.linear(rows, weights)
        return time.perf_counter() - began

    once()
    return min(once() for _ in range(10))


def processor_flags(path: Path) -> set[str]:
    """What the first processor says that it can do; nothing where the system does not tell."""
    if not path.exists():
        return set()
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.split(":")[0].strip() in {"flags", "Features"}:
            return set(line.split(":", 1)[1].split())
    return set()


def _budget(device: str, dimension: int) -> int:
    """Tokens at once. On a CPU what its caches hold; on a GPU half of what is free, at about 64
    bytes per token and dimension."""
    if device != "cuda":
        return _CPU_TOKENS
    free, _ = torch.cuda.mem_get_info()
    return int(min(_GPU_TOKENS, max(_CPU_TOKENS, free // 2 // (64 * dimension))))
