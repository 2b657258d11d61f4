"""Embedding models, loaded as the real ones are: any batch, any length, bad weights, small memory."""

import random
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer

from errors import InputError, QuireError, Refused, Unavailable
from pipeline.models.cache import Encoders
from pipeline.models.embedding import LoadedModel, load_encoder, processor_flags, quicker
from settings import DEFAULT_MODEL
from tests.tiny_models import embedding_model, layout_model

TEXT = st.text("abc xyz.", max_size=400)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tiny")
    return embedding_model(made, prompts={"query": "q: ", "document": "d: "})


@pytest.fixture(scope="module")
def model(folder: Path) -> LoadedModel:
    return load_encoder(str(folder))


def cosines(a: Sequence[Sequence[float]], b: Sequence[Sequence[float]]) -> Any:
    x, y = np.asarray(a), np.asarray(b)
    return (x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)


@pytest.mark.slow
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(texts=st.lists(TEXT, min_size=1, max_size=12), tokens=st.integers(1, 3000))
def test_the_batch_changes_nothing(model: LoadedModel, texts: list[str], tokens: int) -> None:
    """Within 0.001 of cosine: half precision sums in another order when padded."""
    other = replace(model, tokens=tokens, lanes=1)
    assert cosines(model.encode(texts), other.encode(texts)).min() > 0.999


def test_lanes_change_nothing(model: LoadedModel) -> None:
    """As many threads as there are groups, and one: the same numbers."""
    texts = ["abc def " * n for n in range(1, 40)]
    alone = replace(model, tokens=64, lanes=1)
    assert replace(alone, lanes=4).encode(texts) == alone.encode(texts)


def test_whoever_embeds_at_the_same_moment_changes_nothing(model: LoadedModel) -> None:
    """Jobs and questions share a model: none makes another's texts of unequal length."""
    parts = [[f"{'word ' * (n * k % 17)}{n}" for n in range(12)] for k in range(1, 9)]
    alone = [model.encode(texts) for texts in parts]
    with ThreadPoolExecutor(8) as together:
        for _ in range(20):
            made = list(together.map(model.encode, parts))
            for a, b in zip(sum(made, []), sum(alone, []), strict=True):
                assert a == pytest.approx(b, abs=1e-2)


def test_vectors_are_those_of_plain_sentence_transformers(folder: Path, model: LoadedModel) -> None:
    random.seed(1)
    texts = ["".join(random.choices("abcdef ", k=n)) for n in (1, 5, 300, 40, 2, 90, 1000)]
    plain = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
    found = model.encode(texts)
    assert cosines(found, plain.encode_document(texts)).min() > 0.999
    assert np.linalg.norm(found, axis=1) == pytest.approx(1.0, abs=1e-5)
    query = model.encode_query("abc")
    assert cosines([query], [plain.encode_query("abc")])[0] > 0.999
    assert cosines([query], model.encode(["abc"]))[0] < 0.999  # another prompt


def test_empty_and_huge_texts_have_vectors(model: LoadedModel) -> None:
    assert model.encode([]) == []
    found = model.encode(["", "a" * 1_000_000, " "])
    assert np.isfinite(found).all()


def test_what_does_not_fit_the_memory_is_halved(folder: Path) -> None:
    texts = ["abc " * n for n in range(1, 30)]
    wanted = load_encoder(str(folder)).encode(texts)
    tight = load_encoder(str(folder))
    first = tight.model[0]
    forward, seen = first.forward, []

    def cramped(features: dict[str, Any], *rest: Any, **given: Any) -> Any:
        seen.append(features["input_ids"].numel())
        if seen[-1] > 500:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return forward(features, *rest, **given)

    first.forward = cramped
    assert cosines(tight.encode(texts), wanted).min() > 0.999
    assert seen[0] > 500
    with pytest.raises(torch.cuda.OutOfMemoryError):
        first.forward = lambda *_, **__: (_ for _ in ()).throw(torch.cuda.OutOfMemoryError())
        tight.encode(["a"])


def test_a_vector_that_is_no_number_is_an_error(folder: Path, tmp_path: Path) -> None:
    broken = SentenceTransformer(str(folder), device="cpu")
    with torch.no_grad():
        next(broken.parameters()).fill_(float("nan"))
    broken.save(str(tmp_path), safe_serialization=True)
    with pytest.raises(QuireError) as caught:
        load_encoder(str(tmp_path))
    assert caught.value.code == "embedding_invalid"


def test_models_that_cannot_serve_are_told_at_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def code(name: str) -> str:
        with pytest.raises((InputError, Unavailable)) as caught:
            load_encoder(name)
        return caught.value.code

    unsafe = tmp_path / "unsafe"
    shutil.copytree(folder, unsafe)
    weights = next(unsafe.rglob("*.safetensors"))
    torch.save({}, weights.with_name("pytorch_model.bin"))
    weights.unlink()
    assert code(str(unsafe)) == "model_unsafe"
    assert code("no/such/model") == "model_missing"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert code("nobody/nothing") == "model_not_found"
    torn = tmp_path / "torn"
    shutil.copytree(folder, torn)
    whole = next(torn.rglob("*.safetensors"))
    whole.write_bytes(whole.read_bytes()[:100])
    assert code(str(torn)) == "model_unusable"
    assert code(str(layout_model(tmp_path / "layout"))) == "model_unusable"


def test_a_model_of_the_hub_is_known_by_its_commit(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the Hub's cache on this disk: the head moves on, what was loaded first stays reachable."""
    commits = "0123456789abcdef0123456789abcdef01234567", "fedcba9876543210fedcba9876543210fedcba98"
    repository = tmp_path / "models--owner--tiny"
    for commit in commits:
        shutil.copytree(folder, repository / "snapshots" / commit)
    head = repository / "refs" / "main"
    head.parent.mkdir()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    head.write_text(commits[0], encoding="ascii")
    first = load_encoder("owner/tiny").name
    assert first == f"owner/tiny@{commits[0]}"
    head.write_text(commits[1], encoding="ascii")
    assert load_encoder("owner/tiny").name == f"owner/tiny@{commits[1]}"
    assert load_encoder(first).name == first


def test_only_models_that_settings_name_are_loaded() -> None:
    """A store, an archive or a saved job may say anything; a commit is taken of a repository that settings
    name without one."""
    asked: list[str] = []

    def load(name: str) -> Any:
        asked.append(name)
        return SimpleNamespace(name=name)

    commit, other = "a" * 40, "b" * 40
    encoders = Encoders(load, ["org/open", f"org/pinned@{commit}", "org/tagged@v1", "/models/mine"])
    fine = [
        None, "org/open", f"org/open@{other}", f"org/pinned@{commit}", f"org/tagged@{other}",
        "/models/mine", DEFAULT_MODEL,
    ]  # fmt: skip
    for name in fine:
        encoders(name)
    assert asked == [name or "org/open" for name in fine if name != "org/open"]
    for name in (
        "evil/model", f"evil/model@{commit}", f"org/pinned@{other}", "org/open@refs/pr/1",
        "org/open@main", f"{DEFAULT_MODEL}@{other}", "/models/evil", "/models/mine/../evil",
        "/models/mine@x", "", "http://evil/model", "org/open@", f"@{other}", "\0", "x" * (1 << 20),
    ):  # fmt: skip
        before = list(asked)
        if name:
            with pytest.raises(Refused) as caught:
                encoders(name)
            assert caught.value.code == "model_not_offered"
        assert asked == before


def test_why_the_default_model_cannot_be_loaded_stays_known(tmp_path: Path) -> None:
    encoders = Encoders(load_encoder, [str(tmp_path)])
    assert encoders.state() is None
    with pytest.raises(InputError):
        encoders(None)
    state = encoders.state()
    assert isinstance(state, InputError)
    assert state.code == "model_unsafe"


def test_a_processor_tells_what_it_can(tmp_path: Path) -> None:
    told = tmp_path / "cpuinfo"
    told.write_text("model name\t: x\nflags\t\t: fpu avx512_bf16 sse\n", encoding="utf-8")
    assert "avx512_bf16" in processor_flags(told)
    told.write_text("Features\t: fp asimd bf16\n", encoding="utf-8")
    assert "bf16" in processor_flags(told)
    assert processor_flags(tmp_path / "none") == set()


@pytest.mark.parametrize(
    ("flags", "seconds", "taken"),
    [
        ({"avx512_bf16"}, {torch.float32: 2.0, torch.bfloat16: 1.0}, torch.bfloat16),
        ({"avx512_bf16"}, {torch.float32: 1.0, torch.bfloat16: 2.0}, torch.float32),
        ({"avx2"}, {}, torch.float32),
    ],
)
def test_half_precision_is_for_processors_that_are_quicker_in_it(
    flags: set[str], seconds: dict[Any, float], taken: Any
) -> None:
    assert quicker(flags, seconds.__getitem__) == taken
