"""Copies of a view for others: shards in three layouts, with card, licences, attribution and sums.

export(archive, "pretraining", Path("out"), "webdataset", ExportSettings())
"""

from biomedica.export.settings import Exported, ExportSettings, Layout
from biomedica.export.sums import check_sums
from biomedica.export.write import export

__all__ = ["ExportSettings", "Exported", "Layout", "check_sums", "export"]
