"""Any slice of an archive as shuffled batches: from a folder, over HTTP or from a bucket, without a copy.

order      which sample comes when: a pure function of (view, seed, epoch)
mix        several views as one sequence
samples    where each sample of a view lies
ranges     which requests bring them
files      requests: pread, HTTP, S3; retries; whether a shard is still the one that was indexed
cache      what was fetched, kept on a disk
reader     batches of bytes
pixels     JPEG to uint8
texts      which text goes with a picture
loader     the torch dataset and its loader (the only module here, with `pixels`, that needs torch)
"""

from __future__ import annotations

from biomedica.stream.mix import Source
from biomedica.stream.order import Order, OrderSettings
from biomedica.stream.pixels import PixelSettings
from biomedica.stream.samples import Samples, open_samples
from biomedica.stream.settings import ReadSettings
from biomedica.stream.texts import TextSettings

__all__ = [
    "Order",
    "OrderSettings",
    "PixelSettings",
    "ReadSettings",
    "Samples",
    "Source",
    "TextSettings",
    "open_samples",
]
