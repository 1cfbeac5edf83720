"""Where training starts: at the initial encoder, or at the same model of an earlier run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.artifacts import ArtifactError, output_hash
from distill.config import ConfigError
from distill.stages.base import FOLDERS, Context, load_model

if TYPE_CHECKING:
    from distill.models.encoder import EncoderSpec

TOKENIZER_HASH = "tokenizer.sha256"


def starting_point(context: Context, stage: str, depth: int = 0) -> tuple[EncoderSpec, Any]:
    """(specification, parameters) that the `assistant` or `student` stage trains from.

    With `config.STAGE.warm_start` they are all of the earlier run's model; otherwise those of the initial encoder,
    cut to its first `depth` layers where that is above 0.

    Raises ConfigError when the earlier run read texts through another tokenizer or had another shape of model.
    """
    from distill.models.depth import first_layers

    spec, initial = context.initial_encoder()
    if depth:
        if depth > spec.layers:
            raise ConfigError(f"config.{stage}.depth={depth}: the initial encoder has {spec.layers} layers")
        spec, cut = first_layers(spec, initial["encoder"], depth)
        initial = initial | {"encoder": cut}
    earlier = _earlier(context, stage)
    if earlier is None:
        return spec, initial
    field = f"config.{stage}.warm_start={str(earlier)!r}"
    if _tokenizer(context.workdir) != _tokenizer(earlier):
        raise ConfigError(
            f"{field}: that run has another tokenizer; to keep it, set encoder.init to a directory of that run's "
            f"export/huggingface"
        )
    found, params = load_model(earlier / FOLDERS[stage] / "model")
    for name in ("vocab_size", "layers", "width", "heads", "mlp_width"):
        if getattr(found, name) != getattr(spec, name):
            raise ConfigError(
                f"{field}: its {stage} has {name}={getattr(found, name)}, this run's {getattr(spec, name)}; "
                f"start without it or from a run of the same sizes"
            )
    return spec, params


def warm_start_hash(context: Context, stage: str) -> dict[str, str]:
    """The hash of the earlier run's stage as an input of this one; {} without one."""
    earlier = _earlier(context, stage)
    if earlier is None:
        return {}
    try:
        return {"warm_start": output_hash(earlier / FOLDERS[stage], f"python -m launch.{stage} --workdir={earlier}")}
    except ArtifactError as error:
        raise ConfigError(f"config.{stage}.warm_start={str(earlier)!r}: {error}") from None


def _earlier(context: Context, stage: str) -> Path | None:
    directory = getattr(context.experiment, stage).warm_start
    if directory and Path(directory).resolve() == context.workdir.resolve():
        raise ConfigError(f"config.{stage}.warm_start={directory!r}: is this run's own working directory")
    return Path(directory) if directory else None


def _tokenizer(workdir: Path) -> str:
    file = workdir / FOLDERS["prepare"] / TOKENIZER_HASH
    return file.read_text().strip() if file.exists() else ""
