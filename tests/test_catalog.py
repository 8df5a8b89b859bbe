"""The catalog: fetched once, then only what changed; the same whatever came before it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from biomedica import catalog
from biomedica.catalog import PART_WIDTH, Refreshed, Selection, cited_date, refresh
from biomedica.errors import ConfigError, SourceError
from biomedica.sources import Source, SourceSettings, open_source
from servers import Fault, FaultProxy, MotoBucket, Rule, moto_bucket
from small_bucket import SmallArticle, write_bucket

ALL = Selection()
ARTICLES = [
    SmallArticle(number=5),
    SmallArticle(number=6, licence="CC BY-NC", citation="J. 2021;1:1."),
    SmallArticle(number=PART_WIDTH + 1, licence=None, citation=None),
    SmallArticle(number=PART_WIDTH + 2, is_retracted=True, citation="J. 2022 Jun;1:1."),
    SmallArticle(number=3 * PART_WIDTH, licence="CC0", citation="J. 2023 Dec 31;1:1."),
    SmallArticle(number=3 * PART_WIDTH + 1, licence="TDM", citation="J. 1987 Feb 30;1:1."),
]


class Run:
    """A catalog that is refreshed from a bucket, again and again."""

    def __init__(self, root: Path, bucket: MotoBucket, proxy: FaultProxy) -> None:
        self.folder = root / "catalog"
        self.rejects_path = root / "rejects.parquet"
        self.proxy = proxy
        self._bucket = bucket
        self._origin = root / "origin"

    def publish(self, articles: list[SmallArticle], day: str = "2026-01-02") -> None:
        """Make the bucket hold these articles and no others."""
        shutil.rmtree(self._origin, ignore_errors=True)
        write_bucket(self._origin, articles, day=f"{day}T01-00Z")
        self._bucket.sync(self._origin)

    def source(self) -> Source:
        """The bucket behind the proxy, with few and quick tries."""
        settings = SourceSettings(
            endpoint=self.proxy.endpoint,
            retries=1,
            backoff_seconds=0.01,
            timeout_seconds=2,
            max_failures_in_a_row=4,
        )
        return open_source("s3://pmc-oa-opendata", settings)

    def refresh(self, selection: Selection = ALL, **more: Any) -> Refreshed:
        """Refresh, with the proxy's counts set to nothing first."""
        self.proxy.forget()
        self.folder.mkdir(exist_ok=True)
        source = self.source()
        listing = catalog.list_articles(source, selection)
        return refresh(self.folder, source, listing, selection, self.rejects_path, **more)

    def fetched(self) -> int:
        """Metadata records that the last refresh asked for."""
        return self.proxy.count("metadata/*")

    def rows(self, column: str = "number") -> list[Any]:
        """One column over all parts."""
        parts = catalog.parts(self.folder)
        return [value for path in parts for value in pq.read_table(path)[column].to_pylist()]

    def reject_reasons(self) -> dict[str, str]:
        """Reasons by key."""
        rows = pq.read_table(self.rejects_path).to_pylist()
        return {row["key"]: row["reason"] for row in rows}


@contextmanager
def running(root: Path) -> Iterator[Run]:
    """A bucket, a proxy before it, and an empty catalog."""
    with moto_bucket() as bucket, FaultProxy(bucket.endpoint) as proxy:
        yield Run(root, bucket, proxy)


@pytest.fixture(scope="module")
def bucket() -> Iterator[MotoBucket]:
    """One bucket for the tests of this module; each publishes what it needs."""
    with moto_bucket() as bucket:
        yield bucket


@pytest.fixture
def run(tmp_path: Path, bucket: MotoBucket) -> Iterator[Run]:
    """A catalog of `ARTICLES` that was not fetched yet."""
    with FaultProxy(bucket.endpoint) as proxy:
        run = Run(tmp_path, bucket, proxy)
        run.publish(ARTICLES)
        yield run


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*.parquet"))
    }


def numbers(articles: list[SmallArticle]) -> list[int]:
    """PMC ids."""
    return [article.number for article in articles]


def test_first_refresh_fetches_each_record_once(run: Run) -> None:
    """And writes one part for each range of ids that has articles."""
    result = run.refresh()
    assert (result.num_listed, result.num_fetched, result.num_rejects) == (6, 6, 0)
    assert run.fetched() == 6 and result.snapshot == "2026-01-02"
    assert sorted(contents(run.folder)) == [f"part-{n:05d}.parquet" for n in (0, 1, 3)]
    assert run.rows() == numbers(ARTICLES)


def test_second_refresh_of_what_did_not_change_fetches_and_writes_nothing(run: Run) -> None:
    """The ETags of the inventory tell."""
    run.refresh()
    times = {path: path.stat().st_mtime_ns for path in run.folder.iterdir()}
    result = run.refresh()
    assert (result.num_fetched, result.changed_parts, run.fetched()) == (0, 0, 0)
    assert {path: path.stat().st_mtime_ns for path in run.folder.iterdir()} == times


def test_refresh_fetches_only_what_changed(run: Run) -> None:
    """A changed record, a new article and a new version; one that went; parts that stay untouched."""
    run.refresh()
    before = contents(run.folder)
    changed = replace(ARTICLES[2], licence="CC BY")
    new = [SmallArticle(number=5, version=2), SmallArticle(number=7)]
    run.publish([ARTICLES[0], *new, changed, *ARTICLES[3:]], day="2026-01-03")
    result = run.refresh()
    assert run.fetched() == result.num_fetched == 3
    assert list(zip(run.rows(), run.rows("version"), strict=True))[:2] == [(5, 2), (7, 1)]
    assert run.rows("license_code")[2] == "CC BY"
    after = contents(run.folder)
    assert [name for name in before if before[name] == after[name]] == ["part-00003.parquet"]


def test_part_whose_articles_are_all_gone_is_removed(run: Run) -> None:
    """It counts as changed."""
    run.refresh()
    run.publish(ARTICLES[:2])
    result = run.refresh()
    assert result.changed_parts == 2 and run.rows() == [5, 6]


def test_new_version_takes_the_place_of_the_old_one(run: Run) -> None:
    """Unless all versions are asked for."""
    run.publish([ARTICLES[0], SmallArticle(number=5, version=2)])
    run.refresh()
    assert run.rows("version") == [2]
    run.refresh(replace(ALL, all_versions=True))
    assert run.rows("version") == [1, 2] and run.fetched() == 1


@pytest.mark.parametrize("limit", [1, 2, 3, 6, 100])
def test_limit_takes_the_lowest_ids(run: Run, limit: int) -> None:
    """No more parts are fetched than it needs."""
    run.refresh(replace(ALL, limit=limit))
    assert run.rows()[:limit] == numbers(ARTICLES)[:limit]
    assert run.fetched() <= {1: 2, 2: 2, 3: 4}.get(limit, 6)


def test_limit_counts_selected_articles_only(run: Run) -> None:
    """The first two of the commercial group stand in two parts."""
    run.refresh(replace(ALL, limit=2, groups=("commercial",)))
    assert run.fetched() == 4
    assert run.rows()[-1] == PART_WIDTH + 2


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (ALL, [0, 1, 2, 3, 4, 5]),
        (Selection(groups=("commercial",)), [0, 3, 4]),
        (Selection(groups=("noncommercial",)), [1]),
        (Selection(groups=("other",)), [2, 5]),
        (Selection(retracted=False), [0, 1, 2, 4, 5]),
        (Selection(published_from=date(2020, 3, 4)), [0, 1, 3, 4]),
        (Selection(published_from=date(2020, 3, 5)), [1, 3, 4]),
        (Selection(published_to=date(2021, 1, 1)), [0, 1, 5]),
        (Selection(published_from=date(1987, 2, 1), published_to=date(1987, 2, 1)), [5]),
        (Selection(groups=("commercial",), retracted=False, published_to=date(2021, 1, 1)), [0]),
        (Selection(groups=()), []),
    ],
)
def test_selection_admits(run: Run, selection: Selection, expected: list[int]) -> None:
    """By licence group, date and retraction; an article without a date is in no range of dates."""
    run.refresh()
    admitted = []
    for path in catalog.parts(run.folder):
        table = pq.read_table(path)
        admitted += table.filter(selection.admits(table))["number"].to_pylist()
    assert admitted == [ARTICLES[i].number for i in expected]


def test_selection_by_ids(run: Run) -> None:
    """All versions are found, the latest is taken; an id that is not there is a reject."""
    run.publish([*ARTICLES, SmallArticle(number=5, version=2)])
    result = run.refresh(Selection(pmcids=(5, 8, PART_WIDTH + 1)))
    assert list(zip(run.rows(), run.rows("version"), strict=True)) == [(5, 2), (PART_WIDTH + 1, 1)]
    assert run.reject_reasons() == {"PMC8": "metadata_missing"}
    assert result.snapshot is None and run.fetched() == 2


def test_none_of_the_ids_is_there(run: Run) -> None:
    """An empty catalog and a reject for each."""
    assert run.refresh(Selection(pmcids=(8, 9))).num_listed == 0
    assert run.rows() == []
    assert run.reject_reasons() == {"PMC8": "metadata_missing", "PMC9": "metadata_missing"}


@pytest.mark.parametrize("bad", [{"groups": ("commercal",)}, {"limit": 0}, {"limit": -1}])
def test_selection_that_cannot_be_meant(bad: dict[str, Any]) -> None:
    """`ConfigError` names what was found."""
    with pytest.raises(ConfigError, match=r"commercal|limit is"):
        Selection(**bad)


@pytest.mark.parametrize("stop_after", [1, 2])
def test_refresh_that_is_stopped_between_parts_goes_on_there(run: Run, stop_after: int) -> None:
    """Parts that are complete are not fetched again, and the end is as if nothing had happened."""

    def stop(done: int, total: int) -> None:
        if done >= 2 * stop_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.refresh(on_progress=stop)
    assert len(list(run.folder.glob("part-*.parquet"))) == stop_after
    run.refresh()
    assert run.fetched() == 6 - 2 * stop_after
    resumed = contents(run.folder)
    shutil.rmtree(run.folder)
    run.refresh()
    assert contents(run.folder) == resumed


def test_progress_counts_up_to_the_number_of_articles(run: Run) -> None:
    """(looked at, listed)."""
    told: list[tuple[int, int]] = []
    run.refresh(on_progress=lambda done, total: told.append((done, total)))
    assert told == [(2, 6), (4, 6), (6, 6)]


def test_record_that_fails_for_a_while_is_a_reject_and_comes_the_next_time(run: Run) -> None:
    """One bad record costs its article alone, until the fault is gone."""
    run.proxy.rules = [Rule("metadata/PMC6.1.json", 503)]
    run.refresh()
    assert run.reject_reasons() == {"PMC6.1": "fetch_failed"}
    assert run.rows() == [5, *numbers(ARTICLES)[2:]]
    run.proxy.rules = []
    assert run.refresh().num_rejects == 0
    assert run.fetched() == 1 and run.rows() == numbers(ARTICLES)


def test_changed_record_that_cannot_be_fetched_does_not_remove_the_article(run: Run) -> None:
    """A network that fails is no word of the source: what was known stays known."""
    run.refresh()
    run.publish([ARTICLES[0], replace(ARTICLES[1], edition=1), *ARTICLES[2:]])
    run.proxy.rules = [Rule("metadata/PMC6.1.json", Fault.DROP)]
    run.refresh()
    assert run.reject_reasons() == {"PMC6.1": "fetch_failed"}
    assert run.rows() == numbers(ARTICLES)
    run.proxy.rules = []
    run.refresh()
    assert run.fetched() == 1


def test_source_that_goes_down_after_its_inventory_is_a_source_error(run: Run) -> None:
    """Every record fails: that is no catalog without articles."""
    run.proxy.rules = [Rule("metadata/*", Fault.DROP)]
    with pytest.raises(SourceError):
        run.refresh()
    run.proxy.rules = []
    run.refresh()
    assert run.rows() == numbers(ARTICLES)


def test_catalog_outlives_a_source_that_is_down(run: Run) -> None:
    """The parts stay as they are, byte for byte."""
    run.refresh()
    before = contents(run.folder)
    run.publish([replace(article, edition=1) for article in ARTICLES])
    for pattern in ("*", "metadata/*"):
        run.proxy.rules = [Rule(pattern, Fault.DROP)]
        with pytest.raises(SourceError):
            run.refresh()
        assert contents(run.folder) == before


def test_damaged_record_is_a_reject_with_its_reason(run: Run) -> None:
    """The article is left out, and the record is asked for again the next time."""
    run.proxy.rules = [Rule("metadata/PMC5.1.json", Fault.CORRUPT)]
    run.refresh()
    assert run.reject_reasons() == {"PMC5.1": "metadata_bad"}
    run.proxy.rules = []
    run.refresh()
    assert run.fetched() == 1 and run.rows() == numbers(ARTICLES)


def test_refs_are_read_back_as_they_came(run: Run) -> None:
    """What the catalog holds is what the source said."""
    run.refresh()
    source = run.source()
    listed = source.listing().rows
    wanted = [(number, version) for number, version, _ in listed.tolist()]
    found = [ref for ref, _ in catalog.read_refs(run.folder, wanted)]
    assert found == list(source.resolve(listed))
    assert [ref for ref, _ in catalog.read_refs(run.folder, wanted[1:4])] == found[1:4]
    assert list(catalog.read_refs(run.folder, [(9, 1), (9 * PART_WIDTH, 1)])) == []


@pytest.mark.parametrize(
    ("citation", "expected"),
    [
        ("Nature. 2020 Sep 16;585(7825):357-362.", date(2020, 9, 16)),
        ("J. 2022 Jun;1:1.", date(2022, 6, 1)),
        ("J. 2021;1:1.", date(2021, 1, 1)),
        ("J. 2021 Jan-Feb;1:1.", date(2021, 1, 1)),
        ("J. 1987 Feb 30;1:1.", date(1987, 2, 1)),
        ("J. 2019 Spring;1:1.", date(2019, 1, 1)),
        ("no year", None),
        ("Nr 0001", None),
        ("", None),
        (None, None),
    ],
)
def test_date_in_a_citation(citation: str | None, expected: date | None) -> None:
    """What is missing or can't be counts as the first."""
    assert cited_date(citation) == expected


def _article(number: int, version: int, edition: int) -> SmallArticle:
    """An article in one of two parts."""
    place = number if number < 4 else PART_WIDTH + number
    return SmallArticle(number=place, version=version, edition=edition, pictures=edition % 3)


WORLDS = st.lists(
    st.builds(_article, st.integers(1, 7), st.integers(1, 3), st.integers(0, 2)),
    max_size=8,
    unique_by=lambda article: (article.number, article.version),
)
SELECTIONS = st.sampled_from([ALL, Selection(all_versions=True), Selection(limit=2)])


@hypothesis_settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
    database=None,
)
@given(
    history=st.lists(st.tuples(WORLDS, SELECTIONS), max_size=3), last=WORLDS, selection=SELECTIONS
)
def test_parts_do_not_depend_on_history(
    history: list[tuple[list[SmallArticle], Selection]],
    last: list[SmallArticle],
    selection: Selection,
) -> None:
    """After any refreshes, the bytes are those of a first refresh of the last state."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for number, (articles, choice) in enumerate([*history, (last, selection)]):
            _refresh_from_folder(root / "old", root / str(number), articles, choice)
        _refresh_from_folder(root / "new", root / "again", last, selection)
        assert contents(root / "old") == contents(root / "new")


def _refresh_from_folder(
    target: Path, origin: Path, articles: list[SmallArticle], selection: Selection
) -> None:
    """Refresh a catalog from a folder that holds these articles."""
    write_bucket(origin, articles)
    target.mkdir(exist_ok=True)
    source = open_source(str(origin), SourceSettings())
    listing = catalog.list_articles(source, selection)
    refresh(target, source, listing, selection, target.parent / f"{target.name}.parquet")
