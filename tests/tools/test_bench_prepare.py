import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_it_prepares_what_it_makes_up_and_prints_figures(tmp_path):
    command = [sys.executable, "tools/bench_prepare.py", "--rows=3000", "--items=200", "--keyphrases=300"]
    command += ["--format=parquet", f"--keep={tmp_path / 'kept'}"]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True
    )
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["rows"] == 3000 and figures["rows_per_second"] > 0 and 0.05 < figures["peak_rss_gib"] < 2
    assert "clicks: 3,000 rows in clicks.parquet" in done.stdout
    assert (tmp_path / "kept" / "run" / "data" / "clicks.parquet").exists()
