"""Arrow schemas as the features of the `datasets` library, in YAML form and in its own."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

IMAGE = {b"feature": b"image"}
"""Metadata of a field that holds a picture."""
JSON = {b"feature": b"json"}
"""Metadata of a field that holds JSON of any shape."""
PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
"""A picture in a table, as `datasets` stores it."""


def yaml_features(schema: pa.Schema) -> list[dict[str, Any]]:
    """Content of `dataset_info.features` in a card.

    >>> yaml_features(pa.schema([("key", pa.string()), ("words", pa.list_(pa.string()))]))
    [{'name': 'key', 'dtype': 'string'}, {'name': 'words', 'list': 'string'}]
    """
    return [{"name": field.name, **_yaml_field(field)} for field in schema]


def _yaml_field(field: pa.Field) -> dict[str, Any]:
    special = (field.metadata or {}).get(b"feature")
    return {"dtype": special.decode()} if special else _yaml_type(field.type)


def _yaml_type(kind: pa.DataType) -> dict[str, Any]:
    if pa.types.is_struct(kind):
        return {"struct": [{"name": each.name, **_yaml_field(each)} for each in kind]}
    if pa.types.is_list(kind):
        inner = _yaml_type(kind.value_type)
        return {"list": inner.get("dtype") or inner.get("struct") or inner}
    return {"dtype": _dtype(kind)}


def own_features(schema: pa.Schema) -> dict[str, Any]:
    """The form that `datasets` keeps in the metadata of Parquet files."""
    return {field.name: _own_field(field) for field in schema}


def _own_field(field: pa.Field) -> Any:
    special = (field.metadata or {}).get(b"feature")
    return {"_type": special.decode().capitalize()} if special else _own_type(field.type)


def _own_type(kind: pa.DataType) -> Any:
    if pa.types.is_struct(kind):
        return {each.name: _own_field(each) for each in kind}
    if pa.types.is_list(kind):
        return {"feature": _own_type(kind.value_type), "_type": "List"}
    return {"dtype": _dtype(kind), "_type": "Value"}


def _dtype(kind: pa.DataType) -> str:
    """`datasets` calls floats by their bits, Arrow by their width in words."""
    names = {pa.float32(): "float32", pa.float64(): "float64"}
    return names.get(kind) or str(kind).replace("date32[day]", "date32")
