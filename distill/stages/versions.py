"""Versions of what serves: a finished run becomes one, and so does each change of its keyphrases."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.artifacts import ArtifactError, hash_file, output_hash, read_manifest
from distill.retrieval import versions
from distill.retrieval.index_updates import CHANGES, RebuildPolicy
from distill.retrieval.published import EXPORT, INDEX, KEYPHRASES, STUDENT, TOKENIZER, Published, load_published
from distill.retrieval.versions import VersionError
from distill.stages.base import FOLDERS, load_model, write_table

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

_NEEDED = ("prepare", "student", "index")


@dataclasses.dataclass(frozen=True)
class Changed:
    """What a change did to the keyphrases of the current version."""

    version: str  # the current one afterwards
    added: int
    volumes: int  # keyphrases that were there and got another search volume
    removed: int
    absent: int  # to be removed, and not there
    rebuilt: str  # why the index was built again, in words; empty where it was not
    keyphrases: int  # there are now


def run_parts(data: Path, student: Path, index: Path) -> dict[str, Path]:
    """Part of a version → where a run has it, given three stages' folders."""
    return {
        INDEX: index / "index",
        STUDENT: student / "model",
        TOKENIZER: data / "tokenizer",
        KEYPHRASES: data / "keyphrases.parquet",
    }


def about_run(workdir: Path, config: Mapping[str, Any], student: Path) -> dict[str, Any]:
    """What a version says of its run: where it came from, and what embeds and indexes further keyphrases as it did.

    `config` is what the index stage read, `student` that stage's folder.
    """
    manifest = read_manifest(student)
    assert manifest is not None  # the index stage reads it
    _, keyphrase_tokens = manifest["config"]["tokens"]
    return {"workdir": str(workdir.resolve()), **config, "keyphrase_tokens": keyphrase_tokens}


def publish_run(root: Path, workdir: Path, expected: str | None = None) -> str:
    """Publishes a finished run and makes it current; returns the version's name.

    The export goes with it where there is one of the same student and index.

    Raises:
      ArtifactError: a stage is not finished, read something else than is there now, or a file is not what it wrote.
      VersionError: see `versions.publish`.
    """
    if not workdir.is_dir():
        raise ArtifactError(f"{workdir}: no such working directory; name one that `launch.pipeline` has finished")
    folders = {stage: workdir / name for stage, name in FOLDERS.items()}
    for stage in _NEEDED:
        _check_stage(folders, stage)
    parts = run_parts(*(folders[stage] for stage in _NEEDED))
    for part, path in parts.items():
        _check_files(folders[next(stage for stage in _NEEDED if path.is_relative_to(folders[stage]))], path, part)
    if (manifest := read_manifest(folders["export"])) is not None and "index" in manifest["inputs"]:
        _check_stage(folders, "export")
        _check_files(folders["export"], folders["export"], EXPORT)
        parts[EXPORT] = folders["export"]
    manifest = read_manifest(folders["index"])
    assert manifest is not None
    return versions.publish(root, parts, about_run(workdir, manifest["config"], folders["student"]), expected=expected)


def _check_stage(folders: Mapping[str, Path], stage: str) -> None:
    output_hash(folders[stage], f"python -m launch.{stage}")
    manifest = read_manifest(folders[stage])
    assert manifest is not None
    for name, digest in manifest["inputs"].items():
        if name in _NEEDED and output_hash(folders[name], f"python -m launch.{name}") != digest:
            raise ArtifactError(
                f"{folders[stage]}: is of another output of `{name}` than {folders[name]} holds now; "
                f"run `python -m launch.{stage}` again"
            )


def _check_files(folder: Path, path: Path, part: str) -> None:
    """Raises ArtifactError unless the files at `path` are those of the stage's manifest."""
    manifest = read_manifest(folder)
    assert manifest is not None
    outputs: dict[str, str] = manifest["outputs"]
    wanted = {name for name in outputs if (folder / name).is_relative_to(path)}
    for name in sorted(wanted):
        if not (folder / name).is_file() or hash_file(folder / name) != outputs[name]:
            raise ArtifactError(f"{folder / name}: missing or not what its stage wrote; run the stage with --force")
    if not wanted:
        raise ArtifactError(f"{path}: no output of its stage, and cannot become part {part!r} of a version")


def change_keyphrases(
    root: Path,
    put: Path | None,
    remove: Path | None,
    policy: RebuildPolicy | None = None,
) -> Changed:
    """Adds and removes keyphrases of the current version, as a version of its own; all of it or nothing.

    Those that are there already only get their search volume. The version's own student embeds the others. Where the
    policy says so, the index is built again over what it holds then.

    Args:
      root: of the versions.
      put: a table of keyphrases, with `search_volume` where it is known.
      remove: a table of keyphrases; those that are not there are counted.
      policy: when to build again.

    Raises:
      ValueError: a file has a bad row, or a keyphrase stands in both.
      VersionError: there is no version, it is damaged or too old to be changed, or another became current meanwhile.
    """
    import numpy as np

    folder = versions.current(root)
    versions.check(root, folder.name)
    there = next(version for version in versions.describe(root) if version.name == folder.name)
    try:
        published = load_published(folder)
        tokens, row_tokens = there.about["keyphrase_tokens"], there.about["row_tokens"]
    except (ValueError, KeyError, OSError) as error:
        raise VersionError(f"{folder}: cannot be changed ({error}); publish a run again, or roll back") from error
    table = _Table(folder / KEYPHRASES)
    new, volumes = read_keyphrases(put) if put else ([], np.zeros(0))
    gone, _ = read_keyphrases(remove) if remove else ([], None)
    if both := sorted(set(new) & set(gone)):
        raise ValueError(f"{remove}: {both[0]!r} stands in {put} too; leave it in one of them")

    live = np.zeros(len(table.arrow), bool)
    live[published.index.ids()] = True
    rows = table.rows(gone)
    known = rows[(rows >= 0) & live[rows]]
    rows = table.rows(new)
    fresh = np.flatnonzero((rows < 0) | ~live[rows])
    updated = table.set_volumes(np.where((rows >= 0) & live[rows], rows, -1), volumes)
    if len(fresh):
        texts = [new[i] for i in fresh]
        ids = table.rows_for(texts)
        table.set_volumes(ids, volumes[fresh])
        published.index.put(ids, _embed(folder, texts, tokens, row_tokens))
    published.index.remove(known)
    if not len(published.index):
        raise ValueError(f"{remove}: no keyphrase would be left; keep some")
    why = published.index.needs_rebuild(policy or RebuildPolicy(), measure=bool(len(fresh) + len(known)))
    counts = {"added": len(fresh), "volumes": updated, "removed": len(known), "absent": len(gone) - len(known)}
    if not sum((len(fresh), len(known), updated)):
        return Changed(there.name, **counts, rebuilt="", keyphrases=len(published.index))

    parts: dict[str, Path] = {INDEX: folder / INDEX, STUDENT: folder / STUDENT, TOKENIZER: folder / TOKENIZER}
    with tempfile.TemporaryDirectory(dir=root, prefix=versions.WORK) as work:
        if why:
            parts[INDEX] = Path(work) / INDEX
            table.take(published.index.ids())
            _rebuild(published, table.texts, there.about, parts[INDEX])
        else:
            parts[CHANGES] = Path(work) / CHANGES
            published.index.save_changes(parts[CHANGES], folder / INDEX)
        parts[KEYPHRASES] = Path(work) / KEYPHRASES
        write_table(parts[KEYPHRASES], table.arrow)
        about = {**there.about, "changed": {"version": there.name, **counts, "rebuilt": why}}
        name = versions.publish(root, parts, about, expected=there.name)
    return Changed(name, **counts, rebuilt=why, keyphrases=len(published.index))


class _Table:
    """The keyphrases of a version: row i is that of id i, and rows are only ever added."""

    def __init__(self, path: Path):
        import pyarrow.parquet as pq

        self.arrow: pa.Table = pq.read_table(path)

    @property
    def texts(self) -> list[str]:
        return self.arrow["keyphrase"].to_pylist()

    def rows(self, texts: list[str]) -> np.ndarray:
        """The row of each text, −1 where there is none, [N] int64."""
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        column = self.arrow["keyphrase"].combine_chunks()
        found = pc.index_in(pa.array(texts, column.type), value_set=column)  # pyright: ignore[reportAttributeAccessIssue]
        return pc.fill_null(found, -1).to_numpy(zero_copy_only=False).astype(np.int64)

    def rows_for(self, texts: list[str]) -> np.ndarray:
        """The row of each text, with rows at the end for those that have none, [N] int64."""
        import pyarrow as pa

        unknown = [text for text, row in zip(texts, self.rows(texts)) if row < 0]
        columns: dict[str, Any] = {"keyphrase": pa.array(unknown, self.arrow.schema.field("keyphrase").type)}
        if "trainable" in self.arrow.column_names:  # nobody has looked whether these give away what people labelled
            columns["trainable"] = pa.array([False] * len(unknown))
        self.arrow = pa.concat_tables([self.arrow, pa.table(columns)], promote_options="default")
        return self.rows(texts)

    def set_volumes(self, rows: np.ndarray, volumes: np.ndarray) -> int:
        """Sets the search volumes that are known, of rows that are not −1; returns how many became others."""
        import numpy as np
        import pyarrow as pa

        place = self.arrow.schema.get_field_index("search_volume")
        field = self.arrow.schema.field(place)
        values = self.arrow.column(place).cast(pa.float64()).to_numpy().copy()
        chosen = (rows >= 0) & ~np.isnan(volumes)
        chosen[chosen] = values[rows[chosen]] != volumes[chosen]
        values[rows[chosen]] = volumes[chosen]
        self.arrow = self.arrow.set_column(place, field, pa.array(values, mask=np.isnan(values)).cast(field.type))
        return int(np.count_nonzero(chosen))

    def take(self, rows: np.ndarray) -> None:
        self.arrow = self.arrow.take(rows)


def read_keyphrases(path: Path) -> tuple[list[str], np.ndarray]:
    """The keyphrases of a table in their normal form, each once, and the largest search volume of each (NaN: none).

    Raises:
      ValueError: the file cannot be read, holds no keyphrase, or has a bad row, which is named.
    """
    import numpy as np

    from distill.data.preparation.readers import read_table
    from distill.data.schema import TABLES, Problems, read_columns
    from distill.data.text import normalise_keyphrase

    found: dict[str, float] = {}
    table = TABLES["keyphrases"]
    for chunk in read_table(path, table):
        problems = Problems(len(chunk.lines))
        for row, reason in chunk.faults.items():
            problems.add(np.arange(len(chunk.lines)) == row, reason)
        values = read_columns(table, chunk.columns, problems)
        texts = [normalise_keyphrase(text or "") for text in values["keyphrase"].to_pylist()]
        problems.add(np.array([not text for text in texts], bool), "keyphrase is empty")
        if not problems.good.all():
            row = int(np.argmin(problems.good))
            raise ValueError(f"{path}, line {chunk.lines[row]}: {problems.reason(row)}; nothing was changed")
        for text, volume in zip(texts, np.asarray(values["search_volume"], np.float64).tolist()):
            found[text] = float(np.fmax(found.get(text, np.nan), volume))
    if not found:
        raise ValueError(f"{path}: holds no keyphrases; leave it out")
    return list(found), np.array(list(found.values()), np.float64)


def _embed(folder: Path, texts: list[str], keyphrase_tokens: int, row_tokens: int) -> np.ndarray:
    """Unit embeddings [N, D] of keyphrases under a version's student."""
    import jax

    from distill.config import ParallelConfig
    from distill.data.tokenizing import Tokenizer
    from distill.parallel.mesh import make_mesh
    from distill.retrieval.encoding import embed_texts

    spec, params = load_model(folder / STUDENT)
    tokens = Tokenizer.load(folder / TOKENIZER).encode_texts(texts, keyphrase_tokens)
    mesh = make_mesh(ParallelConfig(), jax.local_devices())
    return embed_texts(spec, params, tokens, row_tokens=row_tokens, mesh=mesh)


def _rebuild(published: Published, texts: list[str], about: Mapping[str, Any], directory: Path) -> None:
    """An index over the keyphrases of now, by the settings of the first one."""
    from distill.retrieval.index_store import hash_keyphrases
    from distill.retrieval.scann_index import build_index

    before, settings = published.index.base, about["index"]
    index = build_index(
        published.index.vectors(),
        brute_force_below=settings["brute_force_below"],
        target_recall=settings["target_recall"],
        sample_queries=before.sample,
        seed=about["seed"],
        width=settings["width"] if settings["rescore"] else 0,
        recall_at=settings["recall_at"],
        dtype=settings["dtype"],
        tune_seconds=settings["tune_seconds"],
        model=before.settings.model,
        keyphrases_sha256=hash_keyphrases(texts),
    )
    index.save(directory)
