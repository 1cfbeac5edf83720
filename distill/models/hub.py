"""A model's files, by their path or by a hub name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path


def model_files(path_or_hub_name: str | Path, patterns: Sequence[str], *, file_suffix: str = "") -> Path:
    """The directory of that path, or a snapshot of that name on the hub, of which only `patterns` are fetched.

    Where `file_suffix` is given (such as `.gguf`), a single file that ends in it will do as well.

    Raises FileNotFoundError: no such directory, file or hub name.
    """
    path, name = Path(path_or_hub_name).expanduser(), str(path_or_hub_name)
    if path.is_dir() or (file_suffix and path.suffix == file_suffix and path.is_file()):
        return path
    wanted = f"a directory in Hugging Face format, a hub name or a {file_suffix} file"
    wanted = wanted if file_suffix else "a directory in Hugging Face format or a hub name"
    is_path = path.exists() or path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1
    if is_path or (file_suffix and path.suffix == file_suffix):
        raise FileNotFoundError(f"{name} is not {wanted}; correct the path")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=list(patterns)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise FileNotFoundError(f"{name!r} is no directory, and the hub did not give it: {error}") from error


def weight_files(directory: Path) -> list[Path]:
    """The safetensors file of a Hugging Face directory, or the shards that its index names.

    Raises FileNotFoundError: there is neither, or a shard is missing.
    """
    index, single = directory / "model.safetensors.index.json", directory / "model.safetensors"
    if single.is_file():
        return [single]
    if not index.is_file():
        pickled = "pytorch_model.bin is a pickle and is not read: convert it to safetensors"
        reason = pickled if (directory / "pytorch_model.bin").is_file() else "only safetensors are read"
        raise FileNotFoundError(f"{single} is missing; {reason}")
    names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    for name in names:
        if not (directory / name).is_file():
            raise FileNotFoundError(f"{directory / name} is missing, though {index} names it")
    return [directory / name for name in names]
