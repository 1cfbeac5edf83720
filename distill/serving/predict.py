"""TensorFlow Serving's REST predict: a JSON body to rows of a model's inputs, and its outputs to a JSON body.

The rules are those of its `json_tensor.cc`: `instances` (row format) holds an object a row, or the bare value where the
model has one input, and must hold a row; `inputs` (column format) holds a list for each input, or the bare list where
the model has one, and may be empty. A string is a JSON string or {"b64": …}. Answers are `predictions` (a list, each
with an object of outputs, or the bare value where there is one output) or `outputs` (the columns).
Stricter than it: a name that occurs twice in an object, an input that the model does not have in column format, and
text that is not UTF-8 are refused.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from distill.data.json_objects import RepeatedKey, unique_keys
from distill.export.loading import LoadedModel, Signature, Tensor
from distill.export.warm_up import SIGNATURE
from distill.serving.limits import Limits, RequestError, quoted

_TYPES = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
_DTYPES = {"string": "DT_STRING", "float32": "DT_FLOAT"}


@dataclasses.dataclass(frozen=True)
class PredictRequest:
    """Rows for a model.

    Attributes:
      columns: input → N UTF-8 texts.
      form: in which it was asked, and is to be answered.
      signature: of the model.
    """

    columns: Mapping[str, Sequence[bytes]]
    form: Literal["row", "column"]
    signature: str = SIGNATURE

    @property
    def rows(self) -> int:
        return len(next(iter(self.columns.values())))


def parse_json(body: bytes) -> dict[str, Any]:
    """A JSON object.

    Raises:
      RequestError: 400; the body is empty, not UTF-8, not JSON, nested too deep, or no object.
    """
    if not body.strip():
        raise RequestError(400, "JSON Parse error: the body is empty")
    try:
        value = json.loads(body.decode(), object_pairs_hook=unique_keys)
    except UnicodeDecodeError as error:
        raise RequestError(400, f"JSON Parse error: the body is not UTF-8 at byte {error.start}") from error
    except json.JSONDecodeError as error:
        raise RequestError(400, f"JSON Parse error: {error.msg} at offset {error.pos}") from error
    except RecursionError as error:
        raise RequestError(400, "JSON Parse error: the body is nested too deep") from error
    except RepeatedKey as error:
        raise RequestError(400, f"JSON Value: {quoted(error.key)} occurs twice in an object") from error
    except ValueError as error:  # an integer of thousands of digits
        raise RequestError(400, "JSON Parse error: a number has too many digits") from error
    if not isinstance(value, dict):
        raise RequestError(400, f"JSON Value: the body is {_kind(value)}, not an object")
    return value


def parse_predict(body: bytes, signatures: Mapping[str, Sequence[str]], limits: Limits) -> PredictRequest:
    """What a body asks of a model, given the names of each signature's inputs.

    Raises:
      RequestError: 400 with the field's name, or 413: more than `limits.batch` rows.
    """
    value = parse_json(body)
    signature = value.get("signature_name", SIGNATURE)
    if not isinstance(signature, str):
        raise RequestError(400, f"signature_name is {_kind(signature)}, not a string")
    signature = signature or SIGNATURE
    if signature not in signatures:
        there = ", ".join(map(repr, signatures))
        raise RequestError(400, f"signature_name: {quoted(signature)} not found; there is {there}")
    names = signatures[signature]
    asked = [name for name in ("instances", "inputs") if name in value]
    if len(asked) == 2:
        raise RequestError(400, "there are both 'instances' and 'inputs'; give one of them")
    if not asked:
        raise RequestError(400, "Missing 'inputs' or 'instances' key")
    if asked == ["instances"]:
        return PredictRequest(_from_instances(value["instances"], names, limits.batch), "row", signature)
    return PredictRequest(_from_inputs(value["inputs"], names, limits.batch), "column", signature)


def answer(outputs: Mapping[str, np.ndarray], form: Literal["row", "column"]) -> bytes:
    """The JSON body; as TensorFlow Serving's, it spells what is not finite `NaN` and `-Infinity`."""
    columns = {name: plain(values) for name, values in outputs.items()}
    if len(columns) == 1:
        (only,) = columns.values()
        return _dump({"predictions" if form == "row" else "outputs": only})
    if form == "column":
        return _dump({"outputs": columns})
    return _dump({"predictions": [dict(zip(columns, row)) for row in zip(*columns.values())]})


def status(ready: bool) -> dict[str, Any]:
    """As `GetModelStatusResponse`; an export has one version."""
    state = "AVAILABLE" if ready else "LOADING"
    code = {"error_code": "OK", "error_message": ""}
    return {"model_version_status": [{"version": "1", "state": state, "status": code}]}


def metadata(model: LoadedModel) -> dict[str, Any]:
    """As `GetModelMetadataResponse`."""

    def tensors(specs: Mapping[str, Tensor]) -> dict[str, Any]:
        return {
            name: {
                "dtype": _DTYPES[spec.dtype],
                "tensor_shape": {
                    "dim": [{"size": str(-1 if size is None else size), "name": ""} for size in spec.shape],
                    "unknown_rank": False,
                },
                "name": name,
            }
            for name, spec in specs.items()
        }

    def described(signature: Signature) -> dict[str, Any]:
        return {
            "inputs": tensors({name: Tensor("string", (None,)) for name in signature.inputs}),
            "outputs": tensors(signature.outputs),
            "method_name": "tensorflow/serving/predict",
        }

    signatures = {name: described(signature) for name, signature in {SIGNATURE: model, **model.further}.items()}
    return {
        "model_spec": {"name": model.name, "signature_name": "", "version": "1"},
        "metadata": {"signature_def": {"signature_def": signatures}},
    }


def utf8(value: Any, where: str) -> bytes:
    """A JSON value as UTF-8 bytes.

    Raises:
      RequestError: 400; it is no string, or not UTF-8.
    """
    if isinstance(value, str):
        try:
            return value.encode()
        except UnicodeEncodeError as error:
            raise RequestError(400, f"{where}: holds half of a surrogate pair at character {error.start}") from error
    if isinstance(value, dict):
        return _from_base64(value, where)
    raise RequestError(400, f"{where}: is {_kind(value)} {quoted(value)}, expected a string")


def plain(values: np.ndarray) -> list[Any]:
    """An array as lists of strings or numbers."""
    if values.dtype != object:
        return values.tolist()
    flat = [value.decode(errors="replace") for value in values.ravel()]
    return np.array(flat, object).reshape(values.shape).tolist()


def _from_instances(instances: Any, names: Sequence[str], most: int) -> dict[str, list[bytes]]:
    if not isinstance(instances, list):
        raise RequestError(400, f"instances: is {_kind(instances)}, expected a list")
    if not instances:
        raise RequestError(400, "instances: No values in 'instances' array")
    _check_rows("instances", len(instances), most)
    columns: dict[str, list[bytes]] = {name: [] for name in names}
    bare = not _is_row(instances[0])
    if bare and len(names) > 1:
        raise RequestError(400, f"instances[0]: is {_kind(instances[0])}, expected an object of {', '.join(names)}")
    for at, row in enumerate(instances):
        where = f"instances[{at}]"
        if bare:
            if _is_row(row):
                raise RequestError(400, f"{where}: is an object, and instances[0] is not")
            columns[names[0]].append(utf8(row, where))
            continue
        if not _is_row(row):
            raise RequestError(400, f"{where}: is {_kind(row)}, expected an object of {', '.join(names)}")
        _check_names(row, names, where)
        for name in names:
            columns[name].append(utf8(row[name], f"{where}.{name}"))
    return columns


def _from_inputs(inputs: Any, names: Sequence[str], most: int) -> dict[str, list[bytes]]:
    if not _is_row(inputs):
        if len(names) > 1:
            raise RequestError(400, f"inputs: is {_kind(inputs)}, expected an object of {', '.join(names)}")
        return {names[0]: _column(inputs, "inputs", most)}
    _check_names(inputs, names, "inputs")
    columns = {name: _column(inputs[name], f"inputs.{name}", most) for name in names}
    sizes = {name: len(column) for name, column in columns.items()}
    if len(set(sizes.values())) > 1:
        raise RequestError(400, f"inputs: have different lengths: {', '.join(f'{n} {s}' for n, s in sizes.items())}")
    return columns


def _column(values: Any, where: str, most: int) -> list[bytes]:
    if not isinstance(values, list):
        raise RequestError(400, f"{where}: is {_kind(values)}, expected a list of strings")
    _check_rows(where, len(values), most)
    return [utf8(value, f"{where}[{at}]") for at, value in enumerate(values)]


def _check_rows(where: str, rows: int, most: int) -> None:
    if rows > most:
        raise RequestError(413, f"{where}: has {rows} rows; at most {most} are taken at once")


def _check_names(row: Mapping[str, Any], names: Sequence[str], where: str) -> None:
    missing = [name for name in names if name not in row]
    unknown = [name for name in row if name not in names]
    if missing:
        raise RequestError(400, f"{where}: Missing named input: {', '.join(missing)}")
    if unknown:
        raise RequestError(400, f"{where}: has no input {quoted(unknown[0])}; there is {', '.join(names)}")


def _from_base64(value: Mapping[str, Any], where: str) -> bytes:
    if list(value) != ["b64"] or not isinstance(value["b64"], str):
        raise RequestError(400, f'{where}: is an object, expected a string or {{"b64": a string}}')
    try:
        decoded = base64.b64decode(value["b64"], validate=True)
        decoded.decode()
    except UnicodeDecodeError as error:
        raise RequestError(400, f"{where}: holds bytes that are not UTF-8, at {error.start}") from error
    except (binascii.Error, ValueError) as error:
        raise RequestError(400, f"{where}: Unable to base64 decode") from error
    return decoded


def _is_row(value: Any) -> bool:
    return isinstance(value, dict) and list(value) != ["b64"]


def _kind(value: Any) -> str:
    return _TYPES.get(type(value), "a number")


def _dump(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
