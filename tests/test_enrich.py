"""PubMed's facts by PMID: from E-utilities within their limits, and from PubMed's own files."""

from __future__ import annotations

import gc
import gzip
import logging
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from biomedica import enrich
from biomedica.enrich import Enriched, enrich_from_entrez, enrich_from_files, mesh_terms
from biomedica.errors import ConfigError, SourceError
from biomedica.sources.entrez import Entrez, EntrezSettings
from servers import Answer, FakeEntrez, article_set

SECRET = "0123456789abcdefSECRETkey0123456789"
TODAY = date(1990, 1, 20)
"""Near the first day that is searched, so that few windows are needed."""


def record(pmid: int, term: str | None = None) -> str:
    """A PubMed record with one MeSH heading; it cites a paper, whose PMID is not its own."""
    return (
        f'<PubmedArticle><MedlineCitation><PMID Version="1">{pmid}</PMID>'
        "<Article><ArticleTitle>On tests</ArticleTitle></Article><MeshHeadingList><MeshHeading>"
        f'<DescriptorName UI="D1" MajorTopicYN="N">{term or f"Term {pmid}"}</DescriptorName>'
        "</MeshHeading></MeshHeadingList></MedlineCitation><PubmedData><ArticleIdList>"
        f'<ArticleId IdType="pubmed">{pmid}</ArticleId></ArticleIdList><ReferenceList><Reference>'
        f'<Citation>Another paper</Citation><ArticleIdList><ArticleId IdType="pubmed">{pmid + 1}'
        "</ArticleId></ArticleIdList></Reference></ReferenceList></PubmedData></PubmedArticle>"
    )


RICH = """<PubmedArticle><MedlineCitation Status="MEDLINE"><PMID Version="2">77</PMID><Article>
<ArticleTitle>Rich</ArticleTitle><Abstract>
<AbstractText Label="OBJECTIVE" NlmCategory="OBJECTIVE">To see <i>E. coli</i> at 10<sup>3</sup> &lt; n.</AbstractText>
<AbstractText Label="RESULTS">Seen.</AbstractText><AbstractText>No label.</AbstractText></Abstract>
<PublicationTypeList><PublicationType UI="D1">Journal Article</PublicationType>
<PublicationType UI="D2">Retracted Publication</PublicationType></PublicationTypeList></Article>
<CommentsCorrectionsList>
<CommentsCorrections RefType="RetractionIn"><RefSource>J. 2019 Jul 1</RefSource>
<PMID Version="1">501</PMID></CommentsCorrections>
<CommentsCorrections RefType="ErratumIn"><RefSource>J. 2018</RefSource></CommentsCorrections>
</CommentsCorrectionsList><MeshHeadingList>
<MeshHeading><DescriptorName UI="D008168" MajorTopicYN="N">Lung</DescriptorName>
<QualifierName UI="Q000000981" MajorTopicYN="Y">diagnostic imaging</QualifierName>
<QualifierName UI="Q000473" MajorTopicYN="N">pathology</QualifierName></MeshHeading>
<MeshHeading><DescriptorName UI="D006801" MajorTopicYN="N">Humans</DescriptorName></MeshHeading>
<MeshHeading><DescriptorName UI="D014057" MajorTopicYN="Y">Tomography, X-Ray Computed</DescriptorName>
</MeshHeading></MeshHeadingList></MedlineCitation><PubmedData><ReferenceList>
<Reference><Citation>A. 2001.</Citation><ArticleIdList><ArticleId IdType="doi">10.1/a</ArticleId>
<ArticleId IdType="pubmed">601</ArticleId></ArticleIdList></Reference>
<ReferenceList><Reference><Citation>B. 2002.</Citation></Reference></ReferenceList>
</ReferenceList></PubmedData></PubmedArticle>"""


@pytest.fixture(autouse=True)
def api_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a key, for ten requests a second are quicker than three."""
    monkeypatch.setenv("NCBI_API_KEY", SECRET)


@pytest.fixture
def fake() -> Iterator[FakeEntrez]:
    """E-utilities with nothing in them."""
    with FakeEntrez() as fake:
        yield fake


def client(fake: FakeEntrez, **changes: Any) -> Entrez:
    """A client that does not wait long."""
    quick: dict[str, Any] = {"backoff_seconds": 0.01, "timeout_seconds": 2, "retries": 2}
    return Entrez(EntrezSettings(endpoint=fake.endpoint, **(quick | changes)))


def ask(fake: FakeEntrez, root: Path, pmids: list[int], **more: Any) -> Enriched:
    """Enrich an archive from the fake."""
    return enrich_from_entrez(
        root / "pubmed", pmids, client(fake), root / "rejects" / "enrich.parquet", **more
    )


def rows(root: Path) -> dict[int, dict[str, Any]]:
    """Every record by PMID."""
    found = [
        row
        for p in sorted((root / "pubmed").glob("*.parquet"))
        for row in pq.read_table(p).to_pylist()
    ]
    assert len({row["pmid"] for row in found}) == len(found)
    return {row["pmid"]: row for row in found}


def missing(root: Path) -> dict[str, str]:
    """Reasons of the rejects by key."""
    table = pq.read_table(root / "rejects" / "enrich.parquet")
    return {row["key"]: row["reason"] for row in table.to_pylist()}


class TestJoin:
    """Records and PMIDs come together by what stands in the record."""

    def test_shuffled_missing_and_extra_records(self, fake: FakeEntrez, tmp_path: Path) -> None:
        """Each PMID gets its own record; those without one are rejects; others are left out."""
        wanted = [5, 300_001, 7, 6, 200_000, 8, 99_999, 100_000]
        fake.records = {pmid: record(pmid) for pmid in wanted if pmid not in (6, 200_000)}
        fake.extra = (record(4), record(6_000_000))
        result = ask(fake, tmp_path, wanted)
        assert result == Enriched(num_wanted=8, num_known=0, num_fetched=6, num_missing=2)
        found = rows(tmp_path)
        assert sorted(found) == sorted(fake.records)
        assert {p: r["mesh_terms"] for p, r in found.items()} == {p: [f"Term {p}"] for p in found}
        assert missing(tmp_path) == {"PMID6": "pubmed_missing", "PMID200000": "pubmed_missing"}
        assert mesh_terms(tmp_path / "pubmed", [8, 6, 300_001, 4]) == {
            8: ("Term 8",),
            300_001: ("Term 300001",),
        }

    def test_batches_of_two_hundred(self, fake: FakeEntrez, tmp_path: Path) -> None:
        """Every id once, in calls of at most 200."""
        wanted = list(range(1, 451))
        fake.records = {pmid: record(pmid) for pmid in wanted}
        ask(fake, tmp_path, wanted[::-1] + wanted[:10])
        asked = [call.ids for call in fake.calls("efetch")]
        assert [len(ids) for ids in asked] == [200, 200, 50]
        assert sorted(i for ids in asked for i in ids) == wanted
        assert sorted(rows(tmp_path)) == wanted

    def test_record_without_a_usable_pmid_is_nobodys(
        self, fake: FakeEntrez, tmp_path: Path
    ) -> None:
        """It costs neither the batch nor the run; a book's record is no article's."""
        fake.records = {1: record(1)}
        fake.extra = (
            record(2).replace(">2</PMID>", ">two</PMID>"),
            record(3).replace('<PMID Version="1">3</PMID>', ""),
            "<PubmedBookArticle><BookDocument><PMID>4</PMID></BookDocument></PubmedBookArticle>",
        )
        assert ask(fake, tmp_path, [1, 2, 3, 4]).num_fetched == 1
        assert sorted(rows(tmp_path)) == [1]
        assert sorted(missing(tmp_path)) == ["PMID2", "PMID3", "PMID4"]

    def test_result_does_not_depend_on_the_batches(self, fake: FakeEntrez, tmp_path: Path) -> None:
        """Same records, same bytes."""
        fake.records = {pmid: record(pmid) for pmid in range(1, 40)}
        parts = []
        for batch in (1, 7, 200):
            ask(fake, tmp_path / str(batch), list(range(1, 12)), batch=batch)
            parts.append((tmp_path / str(batch) / "pubmed" / "part-00000.parquet").read_bytes())
        assert len(set(parts)) == 1

    def test_nothing_wanted(self, fake: FakeEntrez, tmp_path: Path) -> None:
        """Nothing is asked."""
        assert ask(fake, tmp_path, []).num_wanted == 0
        assert not fake.asked


class TestResume:
    """A second call asks for what is missing and for nothing else."""

    def test_second_call_asks_only_for_what_is_missing(
        self, fake: FakeEntrez, tmp_path: Path
    ) -> None:
        """Among it those that had no record the first time."""
        fake.records = {pmid: record(pmid) for pmid in (1, 2, 4)}
        ask(fake, tmp_path, [1, 2, 3])
        fake.asked.clear()
        fake.records[3] = record(3)
        result = ask(fake, tmp_path, [1, 2, 3, 4])
        assert [call.ids for call in fake.calls("efetch")] == [[3, 4]]
        assert result == Enriched(num_wanted=4, num_known=2, num_fetched=2, num_missing=0)
        assert missing(tmp_path) == {}
        fake.asked.clear()
        ask(fake, tmp_path, [1, 2, 3, 4])
        assert not fake.asked

    def test_what_arrived_before_the_source_went_down_is_kept(
        self, fake: FakeEntrez, tmp_path: Path
    ) -> None:
        """Three batches of five arrive; the next call begins with the fourth."""
        wanted = list(range(1, 11))
        fake.records = {pmid: record(pmid) for pmid in wanted}
        fake.script = [None, None, None]
        fake.always = 500
        with pytest.raises(SourceError):
            ask(fake, tmp_path, wanted, batch=2)
        fake.asked.clear()
        fake.always = None
        ask(fake, tmp_path, wanted, batch=2)
        assert [call.ids for call in fake.calls("efetch")] == [[7, 8], [9, 10]]
        assert sorted(rows(tmp_path)) == wanted


class TestLimits:
    """NCBI's published limits, and its manners."""

    @pytest.mark.parametrize(("key", "a_second"), [(None, 3), (SECRET, 10)])
    def test_requests_keep_their_distance(
        self,
        fake: FakeEntrez,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        key: str | None,
        a_second: int,
    ) -> None:
        """No window holds more requests than the limit allows, further tries included."""
        if key is None:
            monkeypatch.delenv("NCBI_API_KEY")
        fake.records = {pmid: record(pmid) for pmid in range(1, 6)}
        fake.script = [None, 429, None, 500]
        ask(fake, tmp_path, list(range(1, 6)), batch=1)
        times = [call.at for call in fake.asked]
        assert len(times) == 7
        for i, start in enumerate(times):
            for j, end in enumerate(times[i:]):
                assert end - start >= j / a_second - 0.05

    def test_tool_email_and_key_go_with_every_request(
        self, fake: FakeEntrez, tmp_path: Path
    ) -> None:
        """As NCBI asks for."""
        fake.records = {1: record(1)}
        fake.entered = {1: TODAY}
        with_email = client(fake, email="someone@example.org", tool="mytool")
        enrich_from_entrez(tmp_path, [1], with_email, tmp_path / "rejects.parquet")
        with_email.search("query", today=TODAY)
        assert len(fake.asked) >= 3
        for call in fake.asked:
            assert call.parameters["tool"] == "mytool"
            assert call.parameters["email"] == "someone@example.org"
            assert call.parameters["api_key"] == SECRET

    def test_without_email_and_key_neither_is_sent(
        self, fake: FakeEntrez, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Empty values would be wrong ones."""
        monkeypatch.delenv("NCBI_API_KEY")
        ask(fake, tmp_path, [1])
        (call,) = fake.asked
        assert "email" not in call.parameters and "api_key" not in call.parameters

    @pytest.mark.parametrize("fault", [429, 500, 400, Answer.DROP, Answer.HTML])
    def test_key_is_written_nowhere(
        self,
        fake: FakeEntrez,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
        fault: int | Answer,
    ) -> None:
        """In no file, no log line, no message; also when things go wrong."""
        caplog.set_level(logging.DEBUG)
        fake.records = {pmid: record(pmid) for pmid in range(1, 4)}
        ask(fake, tmp_path, [1, 2])
        fake.always = fault
        with pytest.raises(SourceError) as raised:
            ask(fake, tmp_path, [3])
        assert SECRET not in str(raised.value) + repr(raised.value) + caplog.text
        for path in tmp_path.rglob("*"):
            assert not path.is_file() or SECRET.encode() not in path.read_bytes()

    def test_batch_larger_than_ncbi_takes(self) -> None:
        """Refused before anything is asked."""
        with pytest.raises(ConfigError, match="batch is 501"):
            EntrezSettings(batch=501)


class TestFailures:
    """What is tried again, and what is not."""

    @pytest.mark.parametrize("fault", [429, 500, 502, 503, 504, Answer.DROP, Answer.TRUNCATE])
    def test_passing_fault_is_tried_again(
        self, fake: FakeEntrez, tmp_path: Path, fault: int | Answer
    ) -> None:
        """Twice wrong, then right."""
        fake.records = {1: record(1), 2: record(2)}
        fake.script = [fault, fault]
        fake.retry_after = "0"
        assert ask(fake, tmp_path, [1, 2]).num_fetched == 2
        assert [call.ids for call in fake.asked] == [[1, 2]] * 3
        gc.collect()  # an answer that was left open is a ResourceWarning here, not in another test

    @pytest.mark.parametrize("fault", [Answer.CUT, Answer.HTML])
    def test_answer_that_is_no_document_is_tried_again(
        self, fake: FakeEntrez, tmp_path: Path, fault: Answer
    ) -> None:
        """Half an XML document or a page of apology with status 200 pass as well as a 500 does."""
        fake.records = {1: record(1), 2: record(2)}
        fake.script = [fault]
        assert ask(fake, tmp_path, [1, 2]).num_fetched == 2

    @pytest.mark.parametrize(
        ("fault", "said"), [(429, "429"), (503, "503"), (Answer.DROP, ""), (Answer.TRUNCATE, "")]
    )
    def test_giving_up_says_what_happened(
        self, fake: FakeEntrez, tmp_path: Path, fault: int | Answer, said: str
    ) -> None:
        """Address, number of tries, and the last error; no half-read record is written."""
        fake.records = {1: record(1)}
        fake.always = fault
        with pytest.raises(SourceError, match=rf"efetch.*3 tries.*{said}") as raised:
            ask(fake, tmp_path, [1])
        assert fake.endpoint in str(raised.value)
        assert len(fake.asked) == 3 and rows(tmp_path) == {}

    @pytest.mark.parametrize("fault", [Answer.CUT, Answer.HTML])
    def test_answer_that_stays_no_document_is_a_source_error(
        self, fake: FakeEntrez, tmp_path: Path, fault: Answer
    ) -> None:
        """No `pubmed_missing` for what was never answered."""
        fake.records = {1: record(1)}
        fake.always = fault
        with pytest.raises(SourceError, match="efetch"):
            ask(fake, tmp_path, [1])
        assert rows(tmp_path) == {}

    @pytest.mark.parametrize("status", [400, 403, 404, 414])
    def test_refusal_is_not_repeated(self, fake: FakeEntrez, tmp_path: Path, status: int) -> None:
        """A request that is wrong stays wrong."""
        fake.always = status
        with pytest.raises(SourceError, match=str(status)):
            ask(fake, tmp_path, [1])
        assert len(fake.asked) == 1


class TestSearch:
    """Every id that a query finds."""

    def test_few_ids_need_no_windows(self, fake: FakeEntrez) -> None:
        """One count, one page, sorted."""
        fake.entered = dict.fromkeys(range(1, 100), TODAY)
        assert client(fake).search("q", today=TODAY) == list(range(1, 100))
        assert len(fake.asked) == 2
        assert {call.parameters["db"] for call in fake.asked} == {"pmc"}

    @pytest.mark.slow
    def test_past_the_cap_by_windows_of_entry_dates(self, fake: FakeEntrez) -> None:
        """25,000 articles of twenty days: each is found once, though no answer holds them all."""
        first = date(1990, 1, 1)
        fake.entered = {i: first + timedelta(days=i % 20) for i in range(1, 25_001)}
        assert client(fake).search("q", today=TODAY) == list(range(1, 25_001))
        pages = [c.parameters for c in fake.asked if c.parameters["retmax"] != "0"]
        assert all({"mindate", "maxdate", "datetype"} <= set(page) for page in pages)

    @pytest.mark.slow
    @pytest.mark.parametrize("number", [9_999, 10_000, 10_001])
    def test_around_the_cap(self, fake: FakeEntrez, number: int) -> None:
        """Nothing is lost at the edge."""
        fake.entered = {i: date(1990, 1, 1 + i % 2) for i in range(number)}
        assert len(client(fake).search("q", today=TODAY)) == number

    @pytest.mark.slow
    def test_day_that_holds_more_than_the_cap(self, fake: FakeEntrez) -> None:
        """It can't be split: the message says which day and what to do."""
        fake.entered = {i: date(1990, 1, 3) for i in range(10_500)}
        with pytest.raises(SourceError, match=r"10500.*1990-01-03.*split"):
            client(fake).search("q", today=TODAY)

    def test_ids_outside_all_windows_are_told(
        self, fake: FakeEntrez, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Entered after today: counted, not listed, and the log says so."""
        fake.entered = {i: date(1990, 1, 1 + i % 10) for i in range(12_000)}
        fake.entered[12_000] = TODAY + timedelta(days=1)
        assert len(client(fake).search("q", today=TODAY)) == 12_000
        assert "12001" in caplog.text and "12000" in caplog.text

    @pytest.mark.parametrize("fault", [429, 500, Answer.DROP, Answer.HTML, Answer.CUT])
    def test_passing_fault_is_tried_again(self, fake: FakeEntrez, fault: int | Answer) -> None:
        """As with efetch."""
        fake.entered = {1: TODAY, 2: TODAY}
        fake.script = [fault]
        assert client(fake).search("q", today=TODAY) == [1, 2]

    def test_answer_that_is_no_json_is_a_source_error(self, fake: FakeEntrez) -> None:
        """It shows what came."""
        fake.always = Answer.HTML
        with pytest.raises(SourceError, match=r"esearch.*We are sorry"):
            client(fake).search("q", today=TODAY)


class TestFiles:
    """PubMed's baseline and update files."""

    def read(self, root: Path, pmids: list[int], **more: Any) -> Enriched:
        """Enrich an archive from the files in `baseline`."""
        return enrich_from_files(
            root / "pubmed", pmids, root / "baseline", root / "rejects" / "enrich.parquet", **more
        )

    def write(self, root: Path, files: dict[str, list[str]]) -> None:
        """Gzipped files (by their name, or plain) of records."""
        (root / "baseline").mkdir(exist_ok=True)
        for name, records in files.items():
            data = article_set(records)
            packed = gzip.compress(data, mtime=0) if name.endswith(".gz") else data
            (root / "baseline" / name).write_bytes(packed)

    def test_everything_that_a_record_says(self, tmp_path: Path) -> None:
        """Structured abstract, qualifiers, major topics, retraction, references of any depth."""
        self.write(tmp_path, {"pubmed26n0001.xml.gz": [record(76), RICH, record(78)]})
        result = self.read(tmp_path, [77])
        assert result == Enriched(num_wanted=1, num_known=0, num_fetched=1, num_missing=0)
        row = rows(tmp_path)[77]
        assert row["mesh_terms"] == [
            "Lung/diagnostic imaging*",
            "Lung/pathology",
            "Humans",
            "Tomography, X-Ray Computed*",
        ]
        lung = row["mesh"][0]
        assert (lung["descriptor"], lung["ui"], lung["is_major"]) == ("Lung", "D008168", False)
        assert lung["qualifiers"][0] == {
            "name": "diagnostic imaging",
            "ui": "Q000000981",
            "is_major": True,
        }
        assert row["publication_types"] == ["Journal Article", "Retracted Publication"]
        assert [s["label"] for s in row["abstract"]] == ["OBJECTIVE", "RESULTS", None]
        assert row["abstract"][0]["text"].startswith("To see E. coli at 10")
        assert row["links"] == [
            {"kind": "RetractionIn", "pmid": 501, "text": "J. 2019 Jul 1"},
            {"kind": "ErratumIn", "pmid": None, "text": "J. 2018"},
        ]
        assert row["references"] == [
            {"pmid": 601, "doi": "10.1/a", "text": "A. 2001."},
            {"pmid": None, "doi": None, "text": "B. 2002."},
        ]

    def test_update_file_replaces_the_record_of_the_baseline(self, tmp_path: Path) -> None:
        """Files count in the order of their names, records in the order of the file."""
        self.write(
            tmp_path,
            {
                "pubmed26n1335.xml.gz": [record(1, "newer"), record(2, "old"), record(2, "new")],
                "pubmed26n0001.xml.gz": [record(1, "older"), record(3)],
                "pubmed26n0002.xml": [record(4)],
                "pubmed26n0001.xml.gz.md5": [],
            },
        )
        result = self.read(tmp_path, [1, 2, 3, 4, 5])
        terms = mesh_terms(tmp_path / "pubmed", [1, 2, 3, 4, 5])
        assert terms == {1: ("newer",), 2: ("new",), 3: ("Term 3",), 4: ("Term 4",)}
        assert result.num_missing == 1 and missing(tmp_path) == {"PMID5": "pubmed_missing"}

    @pytest.mark.parametrize("damage", ["cut", "checksum", "page", "empty", "xml"])
    def test_damaged_file_is_named_and_the_others_are_kept(
        self, tmp_path: Path, damage: str
    ) -> None:
        """Files before it stay read; with the file mended, the same call goes on."""
        files = {f"pubmed26n000{i}.xml.gz": [record(i)] for i in (1, 2, 3)}
        self.write(tmp_path, files)
        bad = tmp_path / "baseline" / "pubmed26n0002.xml.gz"
        data = bad.read_bytes()
        bad.write_bytes(
            {
                "cut": data[: len(data) // 2],
                "checksum": data[:-8] + bytes(8),
                "page": b"<html>404</html>",
                "empty": b"",
                "xml": gzip.compress(article_set([record(2)])[:-20]),
            }[damage]
        )
        with pytest.raises(SourceError, match=r"pubmed26n0002\.xml\.gz.*damaged"):
            self.read(tmp_path, [1, 2, 3])
        assert sorted(rows(tmp_path)) == [1]
        bad.write_bytes(data)
        assert self.read(tmp_path, [1, 2, 3]).num_missing == 0
        assert sorted(rows(tmp_path)) == [1, 2, 3]

    def test_files_that_were_read_are_not_read_again(self, tmp_path: Path) -> None:
        """Unless other PMIDs are wanted, or the file is another one."""
        self.write(tmp_path, {"a.xml.gz": [record(1), record(2)]})
        self.read(tmp_path, [1])
        path = tmp_path / "baseline" / "a.xml.gz"
        size = path.stat().st_size
        good, garbage = path.read_bytes(), bytes(size)
        path.write_bytes(garbage)
        self.read(tmp_path, [1])
        with pytest.raises(SourceError):
            self.read(tmp_path, [1, 2])
        path.write_bytes(good)
        self.read(tmp_path, [1, 2])
        assert sorted(rows(tmp_path)) == [1, 2]

    def test_folder_without_files(self, tmp_path: Path) -> None:
        """The message says what is expected there."""
        (tmp_path / "baseline").mkdir()
        with pytest.raises(SourceError, match=r"baseline holds no \.xml\.gz"):
            self.read(tmp_path, [1])

    def test_folder_that_does_not_exist(self, tmp_path: Path) -> None:
        """A `SourceError` too."""
        with pytest.raises(SourceError, match="baseline"):
            self.read(tmp_path, [1])

    def test_same_records_from_files_and_from_entrez(
        self, fake: FakeEntrez, tmp_path: Path
    ) -> None:
        """Both roads lead to the same bytes."""
        fake.records = {1: record(1), 77: RICH}
        ask(fake, tmp_path / "asked", [1, 77])
        self.write(tmp_path, {"a.xml.gz": [RICH, record(1)]})
        self.read(tmp_path, [1, 77])
        parts = [root / "pubmed" / "part-00000.parquet" for root in (tmp_path, tmp_path / "asked")]
        assert parts[0].read_bytes() == parts[1].read_bytes()

    def test_record_that_asks_for_a_file_gets_none(self, tmp_path: Path) -> None:
        """No entity, DTD or address is read."""
        secret = tmp_path / "secret.txt"
        secret.write_text("swordfish")
        (tmp_path / "baseline").mkdir()
        declared = f'<!DOCTYPE x [<!ENTITY s SYSTEM "{secret}">]>'
        body = record(1, "Term &s;")
        text = f"<?xml version='1.0'?>{declared}<PubmedArticleSet>{body}</PubmedArticleSet>"
        (tmp_path / "baseline" / "a.xml").write_text(text)
        self.read(tmp_path, [1])
        assert "swordfish" not in str(rows(tmp_path))


def test_sample_corpus(tour_folder: Path, tmp_path: Path) -> None:
    """The baseline file beside the sample articles: retractions, errata, structured abstracts."""
    source = tour_folder / "pubmed"
    if not source.is_dir():
        pytest.skip("the sample corpus has no PubMed file yet")
    pmids = list(range(99_900_001, 99_900_026))
    enrich_from_files(tmp_path / "pubmed", pmids, source, tmp_path / "rejects" / "enrich.parquet")
    found = rows(tmp_path)
    assert len(found) > 15 and set(found) <= set(pmids)
    assert any(link["kind"] == "RetractionIn" for row in found.values() for link in row["links"])
    assert any(len(row["abstract"]) > 1 for row in found.values())
    assert any(row["references"] for row in found.values())


def test_pmids_of_a_catalog(tmp_path: Path) -> None:
    """Sorted, each once, absent ones left out."""
    import pyarrow as pa

    paths = []
    for i, values in enumerate(([3, None, 1], [], [3, 2])):
        paths.append(tmp_path / f"{i}.parquet")
        pq.write_table(pa.table({"pmid": pa.array(values, pa.int64())}), paths[-1])
    assert enrich.catalog_pmids(paths) == [1, 2, 3]
