"""Settings of the label page."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from biomedica.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelPageSettings:
    """How clusters are shown to experts, and to how many."""

    answers: int = 3
    """Experts who answer each cluster."""
    images: int = 30
    """Images on a cluster's page, at the most; the clustering chose them (`cluster.members`)."""
    lease_minutes: float = 30.0
    """So long a cluster that an expert has in front of them counts as being answered."""
    suggestions: bool = True
    """Show what the nearest labelled clusters are. An expert can switch it off; votes say what was shown."""
    text_suggestions: bool = False
    """Where no labelled cluster is near, suggest the concept whose name and definition lie nearest to the
    cluster. Loads the model that made the features, which must read words (open_clip)."""
    thumbnail_side: int = 240
    """Longest side of a small picture, in pixels."""
    picture_side: int = 1600
    """Longest side of an enlarged picture, in pixels."""
    cache_megabytes: int = 96
    """Memory for pictures that were made smaller."""
    address: str = ""
    """Where experts reach the page, when that is not where it listens: `https://label.example.org`."""

    def __post_init__(self) -> None:
        for name in ("answers", "images", "cache_megabytes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"page.{name} is {getattr(self, name)}; at least 1 would do")
        if self.lease_minutes <= 0:
            raise ConfigError(f"page.lease_minutes is {self.lease_minutes}; above 0 would do")
        for name in ("thumbnail_side", "picture_side"):
            if not 32 <= getattr(self, name) <= 8192:
                raise ConfigError(f"page.{name} is {getattr(self, name)}; 32 to 8192 would do")
        if self.address:
            parts = urlsplit(self.address)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ConfigError(
                    f"page.address is {self.address!r}; https://NAME would do, or nothing"
                )
