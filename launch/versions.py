"""What serves, day by day (docs/daily.md): python -m launch.versions ACTION --versions=DIR [flags]

list      the versions, which one is current, and what was current when
promote   a finished run (--workdir=RUN) or a version that is there (--version=0005) becomes current
rollback  what was current before becomes current again, or --version
change    keyphrases are added (--put=FILE) and removed (--remove=FILE), as a new version
check     compares the files of the current version, or of --version, with what was published
prune     deletes old versions, all but the newest --keep, the current one and the one before it

--expect=NAME refuses to promote or roll back unless that version is current still: for two operators at once.
Exit status: 0, or 1 with the reason in one line and nothing changed.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from absl import app, flags, logging
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from distill.retrieval import versions
from distill.retrieval.published import EXPORT

ROOT = flags.DEFINE_string("versions", None, "The directory of versions, as in --config.index.versions.")
WORKDIR = flags.DEFINE_string("workdir", None, "promote: working directory of a finished run.")
VERSION = flags.DEFINE_string("version", "", "promote, rollback, check: name of a version.")
EXPECT = flags.DEFINE_string("expect", None, "promote, rollback: the version that must be current still.")
PUT = flags.DEFINE_string("put", None, "change: a table of keyphrases (.parquet, .jsonl, .tsv, .csv, also .gz) to add.")
REMOVE = flags.DEFINE_string("remove", None, "change: a table of keyphrases to remove.")
CHANGED_SHARE = flags.DEFINE_float("changed_share", 0.1, "change: of the keyphrases; beyond, the index is built again.")
KEEP = flags.DEFINE_integer(
    "keep", None, "promote, change, prune: newest versions that stay; prune needs it.", lower_bound=1
)


def show(root: Path) -> None:
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    table = Table("version", "", "published", "from", "change")
    for one in versions.describe(root):
        changed = one.about.get("changed", {})
        what = f"+{changed['added']:,} −{changed['removed']:,} keyphrases of {changed['version']}" if changed else ""
        what += "; built again" if changed.get("rebuilt") else one.fault
        now, source = "current" if one.current else "", escape(one.about.get("workdir", ""))
        table.add_row(one.name, now, one.published, source, escape(what))
    console.print(table)
    for event in versions.history(root)[-10:]:
        console.print(f"{event['at']}  {event['version']}  {event['how']}", markup=False)


def promote(root: Path) -> None:
    from distill.stages.versions import publish_run

    if bool(WORKDIR.value) == bool(VERSION.value):
        raise ValueError("promote: pass --workdir=RUN or --version=NAME, one of them")
    before = versions.current_name(root)
    if WORKDIR.value:
        name = publish_run(root, Path(WORKDIR.value), EXPECT.value)
    else:
        name = versions.promote(root, VERSION.value, expected=EXPECT.value)
    _say(root, name, before)


def rollback(root: Path) -> None:
    before = versions.current_name(root)
    _say(root, versions.rollback(root, VERSION.value, expected=EXPECT.value), before)


def change(root: Path) -> None:
    from distill.retrieval.index_updates import RebuildPolicy
    from distill.stages.versions import change_keyphrases

    # A few texts are embedded, maybe beside what serves: JAX must not take all of an accelerator's memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if not (PUT.value or REMOVE.value):
        raise ValueError("change: pass --put=FILE, --remove=FILE or both")
    files = [Path(file) if file else None for file in (PUT.value, REMOVE.value)]
    before = versions.current_name(root)
    done = change_keyphrases(root, *files, policy=RebuildPolicy(changed_share=CHANGED_SHARE.value))
    what = f"added {done.added:,}, removed {done.removed:,}, other search volumes {done.volumes:,}"
    print(f"{what}; {done.keyphrases:,} now")
    if done.absent:
        print(f"{done.absent:,} that were to be removed are not there")
    if done.rebuilt:
        print(f"the index was built again: {done.rebuilt}")
    _say(root, done.version, before)


def check(root: Path) -> None:
    name = VERSION.value or versions.current(root).name
    if name not in versions.versions(root):
        raise versions.VersionError(
            f"{root}: there is no version {name!r}; there are {', '.join(versions.versions(root))}"
        )
    versions.check(root, name)
    print(f"{name}: as it was published")


def prune(root: Path) -> None:
    if KEEP.value is None:
        raise ValueError("prune: pass --keep=NUMBER")
    gone = versions.prune(root, KEEP.value)
    print(f"deleted {', '.join(gone)}" if gone else "nothing to delete")


def _say(root: Path, name: str, before: str) -> None:
    if name == before:
        print(f"{name} is current already; nothing changed")
    else:
        print(f"{name} is current" + (f", {before} was" if before else ""))
        folders = [root / versions.VERSIONS / one / EXPORT for one in (before, name) if one]
        if [folder.is_dir() for folder in folders] == [True, False]:
            print(f"{name} holds no SavedModels, which {before} did: launch.serve cannot serve it", file=sys.stderr)
    if KEEP.value is not None and (gone := versions.prune(root, KEEP.value)):
        print(f"deleted {', '.join(gone)}")


ACTIONS = {"list": show, "promote": promote, "rollback": rollback, "change": change, "check": check, "prune": prune}


def main(argv: list[str]) -> None:
    if len(argv) != 2 or argv[1] not in ACTIONS:
        sys.exit(f"error: pass one of {', '.join(ACTIONS)}; --help says what they do")
    if not ROOT.value:
        sys.exit("error: --versions is missing; name the directory of versions")
    logging.set_verbosity(logging.WARNING)
    root = Path(str(ROOT.value))
    try:
        if argv[1] != "promote" and not root.is_dir():
            raise versions.VersionError(f"--versions={root}: no such directory; promote a run to make it")
        ACTIONS[argv[1]](root)
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"error: {error}")


def _parse(argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    app.run(main, flags_parser=_parse)
