"""From votes to labels: one answer a cluster, given to each of its images, checked on a sample.

labels/<name>.parquet            one row an image
labels/<name>.clusters.parquet   one row a cluster: the answer, the shares behind it, who dissents
labels/<name>.json               what it rests on, agreement of the experts, counts
labels/<name>.audit.parquet      precision of each concept, from images that experts checked
"""

from biomedica.label.audit import (
    AUDIT,
    AuditImage,
    AuditResult,
    AuditSettings,
    ConceptPrecision,
    audit_result,
    draw_audit,
    read_audit,
    wilson_interval,
    write_audit,
)
from biomedica.label.consensus import (
    ClusterLabel,
    GoldScore,
    LabelSettings,
    Status,
    Support,
    consensus,
    gold_scores,
)
from biomedica.label.propagate import (
    CLUSTER_LABELS,
    LABELS,
    Propagated,
    is_stale,
    names,
    propagate,
    read_summary,
)

__all__ = [
    "AUDIT",
    "CLUSTER_LABELS",
    "LABELS",
    "AuditImage",
    "AuditResult",
    "AuditSettings",
    "ClusterLabel",
    "ConceptPrecision",
    "GoldScore",
    "LabelSettings",
    "Propagated",
    "Status",
    "Support",
    "audit_result",
    "consensus",
    "draw_audit",
    "gold_scores",
    "is_stale",
    "names",
    "propagate",
    "read_audit",
    "read_summary",
    "wilson_interval",
    "write_audit",
]
