"""Builds a public data set, or one's own directory, with TFDS and writes a data directory for `--config.data.dir`.

python -m launch.dataset --name=amazon_esci --source=DIR_WITH_THE_OFFICIAL_FILES --locale=us --out=data/esci

Without the files it says which are needed, from where, under which licence; `--download` fetches what is missing from
the official page. docs/datasets.md has the mapping and the counts.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

from absl import app, flags, logging

from distill.data.schema import DataError
from distill.data.sets.build import NAMES, build, public_set, write_directory
from distill.data.sets.esci import ESCI, LOCALES, SIZES
from distill.data.sets.official import download

NAME = flags.DEFINE_enum("name", None, NAMES, "Which data set; `marketplace` is a data directory of one's own.")
SOURCE = flags.DEFINE_string("source", None, "Directory of the original files.")
DOWNLOAD = flags.DEFINE_bool("download", False, "Fetch official files that --source lacks, checked by their checksums.")
LOCALE = flags.DEFINE_enum("locale", "us", LOCALES, "Of Amazon ESCI.")
SIZE = flags.DEFINE_enum("size", "small", SIZES, "Of Amazon ESCI: `small` is the ranking task's, harder queries only.")
DATA_DIR = flags.DEFINE_string("data_dir", None, "Where TFDS keeps what it builds; by default its own directory.")
OUT = flags.DEFINE_string("out", None, "The data directory to write; without it the set is built only.")
MAX_BAD_SHARE = flags.DEFINE_float("max_bad_share", 0.05, "Of a table's rows; more of them stop it.", 0.0, 1.0)

INSTALL = "pip install -e '.[datasets]'"


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        sys.exit(f"error: unexpected argument {argv[1]!r}")
    logging.set_verbosity(logging.WARNING)
    try:
        if NAME.value != ESCI.name and (flags.FLAGS["locale"].present or flags.FLAGS["size"].present):
            raise DataError(f"--locale and --size: only {ESCI.name} has locales and sizes; {NAME.value} has neither")
        source, public = Path(str(SOURCE.value)), public_set(str(NAME.value))
        if DOWNLOAD.value:
            if public is None:
                raise DataError(
                    f"--download: {NAME.value} is a directory of your own; there is no page to fetch it from"
                )
            for name in download(public, source):
                print(f"{name}: downloaded from {public.page}")
        with contextlib.redirect_stdout(sys.stderr):  # TFDS talks while it builds
            built = build(
                str(NAME.value),
                source,
                DATA_DIR.value,
                locale=LOCALE.value,
                size=SIZE.value,
                max_bad_share=MAX_BAD_SHARE.value,
            )
        print("\n".join(built.lines()))
        if OUT.value:
            written = write_directory(built, Path(OUT.value))
            print(f"{'written' if written else 'up to date'}: --config.data.dir={OUT.value}")
    except ImportError as error:
        sys.exit(f"error: TFDS needs more packages: `{INSTALL}` ({error})")
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    flags.mark_flags_as_required(["name", "source"])
    app.run(main)
