"""croissant.json: the files for machines, with the responsible-AI fields. Plain JSON-LD, no library."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from biomedica.export.attribution import SCHEMA as ATTRIBUTION
from biomedica.export.card import LICENCES, Told, size_category
from biomedica.export.layouts import feature_schema, json_schema

_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
_PARQUET, _TAR = "application/x-parquet", "application/x-tar"
_MEMBERS = {"jpg": "image/jpeg", "txt": "text/plain", "json": "application/json"}


def croissant(told: Told, files: Mapping[str, tuple[int, str]]) -> bytes:
    """Content of the file.

    files   (bytes, SHA-256) of every shard and of ATTRIBUTION.parquet, by path
    """
    content: dict[str, Any] = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": [
            "http://mlcommons.org/croissant/1.0",
            "http://mlcommons.org/croissant/RAI/1.0",
        ],
        "name": told.settings.title,
        "description": told.summary,
        "version": told.settings.version,
        **({"datePublished": told.release_date} if told.release_date else {}),
        **({"url": told.settings.url} if told.settings.url else {}),
        "license": [_licence(code) for code in told.choice.licences],
        "creator": [{"@type": "sc:Organization", "name": name} for name in told.creators],
        "citeAs": _bibtex(told),
        "keywords": ["biomedical figures", "captions", size_category(told.choice.num_samples)],
        **_responsible_ai(told),
        "distribution": _distribution(told, files),
        "recordSet": _record_sets(told),
    }
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


def _licence(code: str) -> str:
    if code not in LICENCES:
        return "Terms of the single articles: see ATTRIBUTION.parquet"
    return f"{code}, in the version that each article states: see ATTRIBUTION.parquet"


def _bibtex(told: Told) -> str:
    year = (told.release_date or "")[:4]
    names = " and ".join(f"{{{name}}}" for name in told.creators)
    return (
        f"@misc{{biomedica_export, title={{{told.settings.title}}}, author={{{names}}}, "
        + (f"year={{{year}}}, " if year else "")
        + f"note={{Version {told.settings.version}}}}}"
    )


def _file(path: str, size: int, digest: str, encoding: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": path,
        "name": path,
        "contentUrl": path,
        "contentSize": f"{size} B",
        "encodingFormat": encoding,
        "sha256": digest,
    }


def _distribution(told: Told, files: Mapping[str, tuple[int, str]]) -> list[dict[str, Any]]:
    encoding = _PARQUET if told.layout == "parquet" else _TAR
    found = [
        _file(path, size, digest, encoding if "/" in path else _PARQUET)
        for path, (size, digest) in sorted(files.items())
    ]
    for group in told.splits:
        if told.layout == "parquet":
            found.append(_file_set(f"{group}-files", f"{group}/*/*.parquet", _PARQUET))
            continue
        within = [{"@id": path} for path in sorted(files) if path.startswith(f"{group}/")]
        for extension, kind in _MEMBERS.items():
            members = _file_set(f"{group}-{extension}", f"*.{extension}", kind)
            found.append(members | {"containedIn": within})
    return found


def _file_set(name: str, includes: str, encoding: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": name,
        "name": name,
        "includes": includes,
        "encodingFormat": encoding,
    }


def _record_sets(told: Told) -> list[dict[str, Any]]:
    found = []
    for group in told.splits:
        if told.layout == "parquet":
            schema = feature_schema("parquet", told.labels is not None)
            found.append(_table(group, {"fileSet": {"@id": f"{group}-files"}}, schema))
        else:
            found += _tar_records(told, group)
    found.append(_table("attribution", {"fileObject": {"@id": "ATTRIBUTION.parquet"}}, ATTRIBUTION))
    return found


def _tar_records(told: Told, group: str) -> list[dict[str, Any]]:
    """The pictures with their keys, and the facts; a key joins them to the captions' file names."""
    key = _field(f"{group}/key", "sc:Text", {"fileSet": {"@id": f"{group}-jpg"}})
    key["source"] |= {
        "extract": {"fileProperty": "filename"},
        "transform": {"regex": r"^(.*)\.jpg$"},
    }
    image = _field(f"{group}/image", "sc:ImageObject", {"fileSet": {"@id": f"{group}-jpg"}})
    image["source"]["extract"] = {"fileProperty": "content"}
    facts = []
    for each in json_schema(told.layout, told.labels is not None):
        if not pa.types.is_struct(each.type):
            one = _field(
                f"{group}-facts/{each.name}",
                _data_type(each),
                {"fileSet": {"@id": f"{group}-json"}},
            )
            one["source"]["extract"] = {"jsonPath": f"$.{each.name}"}
            facts.append(_described(one, each))
    return [
        {"@type": "cr:RecordSet", "@id": group, "name": group, "field": [key, image]},
        {
            "@type": "cr:RecordSet",
            "@id": f"{group}-facts",
            "name": f"{group}-facts",
            "field": facts,
        },
    ]


def _table(name: str, source: dict[str, Any], schema: pa.Schema) -> dict[str, Any]:
    fields = []
    for each in schema:
        extract = source | {"extract": {"column": each.name}}
        if _is_struct_list(each.type):
            fields.append(_described(_struct_list(f"{name}/{each.name}", extract, each), each))
            continue
        one = _field(f"{name}/{each.name}", _data_type(each), dict(extract))
        if (each.metadata or {}).get(b"feature") == b"image":
            one["source"]["transform"] = {"jsonPath": "bytes"}
        fields.append(_described(one, each))
    return {"@type": "cr:RecordSet", "@id": name, "name": name, "field": fields}


def _is_struct_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) and pa.types.is_struct(kind.value_type))


def _struct_list(name: str, source: dict[str, Any], column: pa.Field) -> dict[str, Any]:
    """A list of structures; what is nested deeper in them Croissant 1.0 has no words for."""
    subs = [
        _field(
            f"{name}/{each.name}", _data_type(each), source | {"transform": {"jsonPath": each.name}}
        )
        for each in column.type.value_type
        if not pa.types.is_nested(each.type)
    ]
    return {"@type": "cr:Field", "@id": name, "name": name, "subField": subs}


def _field(name: str, kind: str, source: dict[str, Any]) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": name,
        "name": name,
        "dataType": kind,
        "source": source,
    }


def _described(field: dict[str, Any], column: pa.Field) -> dict[str, Any]:
    about = (column.metadata or {}).get(b"about")
    repeated = pa.types.is_list(column.type)
    return (
        field
        | ({"description": about.decode()} if about else {})
        | ({"repeated": True} if repeated else {})
    )


def _data_type(field: pa.Field) -> str:
    if (field.metadata or {}).get(b"feature") == b"image":
        return "sc:ImageObject"
    kind = field.type.value_type if pa.types.is_list(field.type) else field.type
    if pa.types.is_boolean(kind):
        return "sc:Boolean"
    if pa.types.is_integer(kind):
        return "sc:Integer"
    if pa.types.is_floating(kind):
        return "sc:Float"
    if pa.types.is_date(kind):
        return "sc:Date"
    return "sc:Text"


def _responsible_ai(told: Told) -> dict[str, Any]:
    """The fields of the responsible-AI extension: what is known, and what is not, in words."""
    settings, labels = told.settings, told.labels
    kept_out = ", ".join(f"{count} by {rule}" for rule, count in told.choice.refused.items())
    fields: dict[str, Any] = {
        "rai:dataCollection": "Figures, captions and the paragraphs that cite them were read from "
        "the JATS XML of the PubMed Central Open Access subset"
        + (f", state of {told.snapshot}." if told.snapshot else "."),
        "rai:dataCollectionType": ["Secondary data analysis"],
        "rai:dataCollectionRawData": "The articles' XML and the publishers' picture files, at "
        "PubMed Central; ATTRIBUTION.parquet names each article.",
        "rai:dataCollectionMissingData": "Figures without a caption or without a picture that "
        f"decodes are not in the archive. Left out of this export: {kept_out or 'none'}.",
        "rai:dataPreprocessingProtocol": [
            "Pictures in formats that browsers show were taken as they were; the others became JPEG. "
            "The column `transform` (in ATTRIBUTION.parquet: `changes`) says what was done to each.",
        ],
        "rai:dataBiases": [
            "Published articles favour rare, new and severe findings; plots and diagrams outnumber "
            "clinical images; most texts are in English.",
        ],
        "rai:dataUseCases": [
            "Training and evaluating vision-language models, retrieval, and studies of scientific "
            "figures. Not for diagnosis or for decisions about patients.",
        ],
        "rai:dataLimitations": [
            "Figures of several panels are not split; captions can need the full article to be "
            "understood; pictures of public test sets may be among them.",
        ],
        "rai:dataSocialImpact": "Models of biomedical images can help research and care; trained on "
        "published cases alone they can fail people whom these do not represent.",
        "rai:personalSensitiveInformation": [
            "Pictures of patients, among them faces and body parts, and text within scans. Patients "
            "consented to publication in an article where the journal asked for it. No detector was "
            "run and nothing was blurred.",
        ],
        "rai:dataReleaseMaintenancePlan": "Each version is made anew from the archive: articles that "
        + ("were withdrawn" if settings.retracted else "were retracted or withdrawn")
        + " and figures on the takedown list are left out of it.",
    }
    if labels is not None:
        fields["rai:dataAnnotationProtocol"] = [
            "Images were grouped by appearance; experts answered what a group's images show; the "
            "consensus was given to all images of the group, but for marked outliers.",
        ]
        fields["rai:dataAnnotationPlatform"] = ["biomedica label (a web page of this project)"]
        fields["rai:machineAnnotationTools"] = ["k-means over image features"]
        fields["rai:dataAnnotationAnalysis"] = [_audit_sentence(labels.audit)]
    return fields


def _audit_sentence(audit: Sequence[Mapping[str, Any]]) -> str:
    rows = [row for row in audit if row["concept"] is not None]  # the others sum these up
    checked = sum(row["num_checked"] for row in rows)
    if not checked:
        return "No single images were checked after the labels were given out."
    right = sum(row["num_right"] for row in rows)
    return (
        f"Experts checked {checked} labels of single images over {len(rows)} concepts; {right} were "
        "right. The card has the precision of each concept with its interval."
    )
