"""NCBI's E-utilities, within their published limits: 3 requests a second, 10 with an API key.

Source: https://www.ncbi.nlm.nih.gov/books/NBK25497/. The key comes from the environment
(`NCBI_API_KEY`) and is never written anywhere.
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, TypeVar

from biomedica.errors import ConfigError, SourceError

log = logging.getLogger(__name__)

_WINDOW = 9_999
"""Most ids that esearch gives for one query."""
_FIRST_DAY = date(1990, 1, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class EntrezSettings:
    """How PubMed and PMC are asked."""

    endpoint: str = "https://eutils.ncbi.nlm.nih.gov/entrez/eutils"
    """Address of the E-utilities."""
    email: str | None = None
    """Yours: NCBI asks for it, to write to you before it blocks an address."""
    tool: str = "biomedica"
    """Name under which the requests are made."""
    batch: int = 200
    """Records a request."""
    retries: int = 6
    """Further tries after an error 429 or 5xx, or a connection that failed."""
    backoff_seconds: float = 1.0
    """Wait before the first further try; doubled each time, up to 60 s."""
    timeout_seconds: float = 60
    """Longest wait for one answer."""

    def __post_init__(self) -> None:
        if not 1 <= self.batch <= 500:
            raise ConfigError(f"entrez.batch is {self.batch}; 1 to 500 is expected")


T = TypeVar("T")


def _search_result(data: bytes) -> dict[str, Any]:
    """The result of esearch. Raises `ValueError` for what is no JSON of it."""
    try:
        return dict(json.loads(re.sub(rb"[\x00-\x1f]", b" ", data))["esearchresult"])
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{data[:200]!r} is no JSON of esearch") from None


class Entrez:
    """One client: it spaces its requests and tries again where that may mend it."""

    def __init__(self, settings: EntrezSettings) -> None:
        self._settings = settings
        self._key = os.environ.get("NCBI_API_KEY")
        self._spacing = 1 / (10 if self._key else 3)
        self._next = 0.0

    def call(
        self,
        utility: str,
        read: Callable[[bytes], T],
        **parameters: str | int,
    ) -> T:
        """The answer of one utility (`esearch`, `efetch`), read. Raises `SourceError`.

        read   raises `ValueError` for what is no answer (a page with status 200): asked again
        """
        fields = {"tool": self._settings.tool, **parameters}
        if self._settings.email:
            fields["email"] = self._settings.email
        if self._key:
            fields["api_key"] = self._key
        url = f"{self._settings.endpoint}/{utility}.fcgi"
        body = urllib.parse.urlencode(fields).encode()
        last = ""
        for attempt in range(self._settings.retries + 1):
            self._wait(attempt)
            try:
                with urllib.request.urlopen(
                    urllib.request.Request(url, body), timeout=self._settings.timeout_seconds
                ) as answer:
                    return read(bytes(answer.read()))
            except urllib.error.HTTPError as error:
                error.close()
                last = f"HTTP {error.code}"
                if error.code != 429 and error.code < 500:
                    raise SourceError(f"{url} answers {last}: {error.reason}") from None
            except (OSError, http.client.HTTPException, ValueError) as error:
                last = str(error) or type(error).__name__
            log.info("%s: %s; trying again", utility, last)
        raise SourceError(f"{url} does not answer after {self._settings.retries + 1} tries: {last}")

    def _wait(self, attempt: int) -> None:
        pause = min(60.0, self._settings.backoff_seconds * 2 ** (attempt - 1)) if attempt else 0.0
        now = time.monotonic()
        at = max(self._next, now) + pause
        time.sleep(max(0.0, at - now))
        self._next = time.monotonic() + self._spacing

    def search(self, query: str, *, today: date, database: str = "pmc") -> list[int]:
        """Every id that a query finds, sorted; past the cap of 10,000 by windows of entry dates."""
        found: set[int] = set()
        windows = [(_FIRST_DAY, today)]
        total = self._count(query, database)
        if total <= _WINDOW:
            return sorted(self._page(query, database, {}))
        while windows:
            first, last = windows.pop()
            dates = {
                "datetype": "edat",
                "mindate": first.strftime("%Y/%m/%d"),
                "maxdate": last.strftime("%Y/%m/%d"),
            }
            count = self._count(query, database, **dates)
            if count > _WINDOW and first < last:
                middle = first + (last - first) // 2
                windows += [(first, middle), (middle + timedelta(days=1), last)]
                continue
            if count > _WINDOW:
                raise SourceError(
                    f"{count} articles entered on {first} match {query!r}, and E-utilities give "
                    f"{_WINDOW} at most: split the query"
                )
            if count:
                found.update(self._page(query, database, dates))
        if len(found) < total:
            log.warning("the query counts %d articles, %d were listed", total, len(found))
        return sorted(found)

    def _count(self, query: str, database: str, **dates: str) -> int:
        return int(self._search(query, database, retmax=0, **dates)["count"])

    def _page(self, query: str, database: str, dates: dict[str, str]) -> list[int]:
        return [int(i) for i in self._search(query, database, retmax=_WINDOW, **dates)["idlist"]]

    def _search(self, query: str, database: str, **parameters: str | int) -> dict[str, Any]:
        result = self.call(
            "esearch", _search_result, db=database, term=query, retmode="json", **parameters
        )
        if "ERROR" in result or "count" not in result:
            raise SourceError(f"esearch refuses {query!r}: {result.get('ERROR', result)}")
        return dict(result)
