"""The import rules of the architecture: one way only, one door for each heavy package, no prints, no flags."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Each layer may import itself and those before it.
LAYERS = (
    ("config", "parallel", "reporting", "artifacts", "resampling"),
    ("losses", "models", "data"),
    ("judge", "train", "retrieval"),
    ("evaluate", "export"),
    ("serving",),
    ("stages",),
)
DOORS = {
    "tensorflow": ("distill/export/",),
    "scann": ("distill/retrieval/scann_native.py", "distill/retrieval/scann_graph.py"),
    "orbax": ("distill/train/checkpoint.py",),
    "transformers": ("distill/data/tokenizing.py", "distill/data/chat.py", "distill/models/pretrained.py"),
    "tokenizers": ("distill/data/tokenizing.py", "distill/data/chat.py"),
    "gguf": ("distill/data/gguf_file.py",),
    "apache_beam": ("distill/data/preparation/beam_prepare.py",),
    "openai": ("distill/judge/endpoint.py",),
    "sqlite3": ("distill/judge/store.py", "distill/judge/store_files.py"),
    "grain": ("distill/data/stream.py", "distill/data/sets/reading.py"),
    "tensorflow_datasets": ("distill/data/sets/",),
    "phonenumbers": ("distill/data/validation/personal_data.py",),
    "prometheus_client": ("distill/serving/",),
    "py3langid": ("distill/data/validation/languages.py",),
    "starlette": ("distill/serving/",),
    "uvicorn": ("distill/serving/",),
}
BEYOND_THE_CORE = (
    "apache_beam",
    "bm25s",
    "gguf",
    "grain",
    "jinja2",
    "matplotlib",
    "ml_collections",
    "openai",
    "pyarrow",
    "pydantic",
    "safetensors",
    "scann",
    "scipy",
    "sklearn",
    "tensorboardX",
    "tensorflow",
    "tokenizers",
    "transformers",
)
FILES = sorted((ROOT / "distill").rglob("*.py"))


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def layer_of(module: str) -> int:
    part = module.split(".")[1]
    return next(i for i, names in enumerate(LAYERS) if part in names)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path):
    relative = path.relative_to(ROOT)
    name = ".".join(relative.with_suffix("").parts)
    for module in imports(path):
        top = module.split(".")[0]
        assert top not in ("configs", "launch", "tests", "torch", "absl"), f"{relative} imports {module}"
        doors = DOORS.get(top)
        if doors:
            assert str(relative).startswith(doors), f"{relative} imports {module}; its door is {doors}"
        if top == "distill" and "." in module and "." in name:
            assert layer_of(module) <= layer_of(name), f"{relative} imports {module}"
    part = relative.parts[1]
    if part == "losses":
        assert {m.split(".")[0] for m in imports(path)} <= {
            "__future__",
            "jax",
            "optax",
            "distill",
            "collections",
            "typing",
            "functools",
            "math",
        }
    if part == "train":
        forbidden = ("distill.models", "distill.evaluate", "distill.retrieval", "distill.data")
        assert not any(m.startswith(forbidden) for m in imports(path)), relative


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_library_neither_prints_nor_defines_flags(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called != "print" and "DEFINE_" not in called, f"{path}:{node.lineno}: {called}"


def test_the_launchers_only_parse_and_call():
    for path in (ROOT / "launch").glob("*.py"):
        assert not any(m.split(".")[0] in ("jax", "flax", "optax", "orbax") for m in imports(path)), path


def test_the_training_core_needs_jax_flax_optax_and_orbax_alone():
    """Every module of it imports, and a packed student trains, where no other package of ours is installed."""
    code = f"""
import importlib, pathlib, runpy, sys
for name in {sorted(BEYOND_THE_CORE)}:
    sys.modules[name] = None
for part in ("losses", "models", "parallel", "train"):
    for path in sorted(pathlib.Path("distill", part).glob("*.py")):
        importlib.import_module(f"distill.{{part}}.{{path.stem}}".removesuffix(".__init__"))
sys.argv = ["bench_gpu", "--tiny", "--rounds=1", "--steps=4", "--peers=/nowhere"]
sys.path.insert(0, "tools")
runpy.run_path("tools/bench_gpu.py", run_name="__main__")
"""
    environment = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_backend_optimization_level=0", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["teraflops"] > 0
