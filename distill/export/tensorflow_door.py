"""TensorFlow, where it is installed. Only SavedModels need it."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

INSTALL = "pip install -e '.[export]'"


def is_installed() -> bool:
    """Whether TensorFlow and tensorflow-text are there; neither is imported."""
    return all(importlib.util.find_spec(name) is not None for name in ("tensorflow", "tensorflow_text"))


def load_tensorflow() -> Any:
    """The module, kept off the GPUs: they are JAX's, and TensorFlow would take all of their memory.

    Raises:
      ImportError: it is not installed; the message says how to.
    """
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1") == "1":  # which JAX sets
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # what matters is raised; the rest is greetings and missing GPUs
    try:
        import tensorflow as tf
        import tensorflow_text  # noqa: F401  # pyright: ignore[reportMissingImports]  # registers its ops
    except ImportError as error:
        raise ImportError(f"SavedModels need TensorFlow and tensorflow-text: `{INSTALL}` ({error})") from error
    tf.config.set_visible_devices([], "GPU")
    return tf
