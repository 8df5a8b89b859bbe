"""Objects by key: checked against their digest, tried again, refused when they leave the source."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import md5
from pathlib import Path

import pytest

from biomedica.errors import ConfigError, SourceError
from biomedica.records import Reason
from biomedica.sources.store import (
    MEGABYTE,
    FetchError,
    FolderStore,
    SourceSettings,
    Store,
    is_safe,
    open_store,
)
from servers import Fault, FaultProxy, MotoBucket, Rule, moto_bucket
from small_bucket import put

DATA = bytes(range(256)) * 64
KEY = "PMC1.1/a.jpg"
TRIES = 3
ODD_NAMES = [
    "with space.jpg",
    "plus+and&.jpg",
    "percent%41.jpg",
    "hash#1.jpg",
    "(1)[2]{3}.jpg",
    "tilde~star*.jpg",
    "énoncé.jpg",
    "semi;colon:at@.jpg",
    "double..dot.jpg",
    "quote'.jpg",
]


@pytest.fixture(scope="module")
def bucket() -> Iterator[MotoBucket]:
    """A bucket that holds one object, and some with odd names."""
    with moto_bucket() as bucket:
        bucket.put(KEY, DATA)
        for name in ODD_NAMES:
            bucket.put(f"odd/{name}", name.encode())
        yield bucket


@pytest.fixture
def proxy(bucket: MotoBucket) -> Iterator[FaultProxy]:
    """A proxy without rules."""
    with FaultProxy(bucket.endpoint) as proxy:
        yield proxy


def settings(endpoint: str | None, **changes: object) -> SourceSettings:
    """Few and quick tries."""
    quick: dict[str, object] = {
        "retries": TRIES - 1,
        "backoff_seconds": 0.01,
        "timeout_seconds": 0.3,
    }
    return SourceSettings(endpoint=endpoint, **(quick | changes))  # type: ignore[arg-type]


def opened(proxy: FaultProxy) -> Store:
    """The bucket behind the proxy."""
    return open_store("s3://pmc-oa-opendata", settings(proxy.endpoint))


def refusal(store: Store, key: str, md5: str | None = None, max_mb: int = 1024) -> FetchError:
    """The error that getting a key ends in."""
    with pytest.raises(FetchError) as raised:
        store.get(key, md5=md5, missing=Reason.MEDIA_MISSING, max_mb=max_mb)
    return raised.value


FAULTS = [*Fault, 429, 500, 502, 503]
"""All but those that say that the object is not there."""


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_that_passes_is_mended_by_trying_again(proxy: FaultProxy, fault: Fault | int) -> None:
    """Two bad answers, then a good one: the bytes arrive."""
    proxy.rules = [Rule(KEY, fault, times=2)]
    digest = md5(DATA).hexdigest()
    assert opened(proxy).get(KEY, md5=digest, missing=Reason.MEDIA_MISSING) == DATA
    assert proxy.requests[KEY] == 3


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_that_stays_is_a_fetch_error_after_all_tries(
    proxy: FaultProxy, fault: Fault | int
) -> None:
    """The reason says whether bytes failed to come or came wrong; the detail, how often."""
    proxy.rules = [Rule(KEY, fault)]
    error = refusal(opened(proxy), KEY, md5(DATA).hexdigest())
    expected = Reason.DIGEST_MISMATCH if fault is Fault.CORRUPT else Reason.FETCH_FAILED
    assert error.reason is expected
    assert f"({TRIES} tries)" in error.detail
    assert proxy.requests[KEY] == TRIES


@pytest.mark.parametrize("fault", FAULTS)
def test_detail_of_a_failed_fetch_is_the_same_each_time(
    bucket: MotoBucket, fault: Fault | int
) -> None:
    """No address of the server and no duration in it: rejects are part of what must repeat."""
    details = set()
    for _ in range(2):
        with FaultProxy(bucket.endpoint, [Rule(KEY, fault)]) as proxy:
            details.add(refusal(opened(proxy), KEY, md5(DATA).hexdigest()).detail)
            assert proxy.endpoint.rpartition("/")[2] not in "".join(details)
    assert len(details) == 1


@pytest.mark.parametrize("number", [429, 500, 503])
def test_digits_of_a_key_are_not_taken_for_a_status(proxy: FaultProxy, number: int) -> None:
    """A connection that drops while PMC500... is fetched is no HTTP 500."""
    key = f"PMC{number}.1/a.jpg"
    proxy.rules = [Rule(key, Fault.DROP)]
    assert f"HTTP {number}" not in refusal(opened(proxy), key).detail


@pytest.mark.parametrize("status", [404, 403])
def test_object_that_is_not_there_is_asked_for_once(proxy: FaultProxy, status: int) -> None:
    """Trying again mends neither; the reason is the caller's word for missing."""
    proxy.rules = [Rule(KEY, status)]
    assert refusal(opened(proxy), KEY).reason is Reason.MEDIA_MISSING
    assert proxy.requests[KEY] == 1


def test_missing_object_of_a_real_bucket(proxy: FaultProxy) -> None:
    """The same with the answer of the S3 service itself."""
    error = refusal(opened(proxy), "PMC1.1/none.jpg")
    assert error.reason is Reason.MEDIA_MISSING
    assert "PMC1.1/none.jpg" in error.detail


def test_too_large_object_is_refused_with_both_sizes(bucket: MotoBucket, proxy: FaultProxy) -> None:
    """Asked for once, and told by its size."""
    bucket.put("large", bytes(MEGABYTE + 1))
    error = refusal(opened(proxy), "large", max_mb=1)
    assert error.reason is Reason.MEDIA_TOO_LARGE
    assert str(MEGABYTE + 1) in error.detail and "1 MB" in error.detail
    assert proxy.requests["large"] == 1


def test_object_of_the_largest_size_passes(bucket: MotoBucket, proxy: FaultProxy) -> None:
    """The limit itself is allowed."""
    bucket.put("limit", bytes(MEGABYTE))
    assert len(opened(proxy).get("limit", missing=Reason.MEDIA_MISSING, max_mb=1)) == MEGABYTE


def test_digest_in_capitals_is_the_same_digest(proxy: FaultProxy) -> None:
    """Hex digits have no case."""
    digest = md5(DATA).hexdigest().upper()
    assert opened(proxy).get(KEY, md5=digest, missing=Reason.MEDIA_MISSING) == DATA


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names_reach_their_objects(proxy: FaultProxy, name: str) -> None:
    """Publishers' file names are asked for as they are."""
    data = opened(proxy).get(f"odd/{name}", missing=Reason.MEDIA_MISSING)
    assert data == name.encode()


@pytest.mark.parametrize("style", ["{endpoint}/pmc-oa-opendata", "{endpoint}/pmc-oa-opendata/"])
def test_path_style_address_needs_no_endpoint(proxy: FaultProxy, style: str) -> None:
    """`http://HOST/BUCKET` alone is enough."""
    store = open_store(style.format(endpoint=proxy.endpoint), settings(None))
    assert store.get(KEY, missing=Reason.MEDIA_MISSING) == DATA


def test_mirror_below_a_prefix(bucket: MotoBucket, proxy: FaultProxy) -> None:
    """Keys, lists and folders are told without the prefix."""
    for name in ("metadata/PMC1.1.json", "metadata/PMC2.1.json", "PMC1.1/a.jpg"):
        bucket.put(f"mirror/oa/{name}", b"{}")
    store = open_store("s3://pmc-oa-opendata/mirror/oa/", settings(proxy.endpoint))
    assert store.get("PMC1.1/a.jpg", missing=Reason.MEDIA_MISSING) == b"{}"
    assert list(store.keys("metadata/")) == ["metadata/PMC1.1.json", "metadata/PMC2.1.json"]
    assert store.folders("PMC1.") == ["PMC1.1"]


def test_list_is_sorted_over_several_pages(bucket: MotoBucket, proxy: FaultProxy) -> None:
    """More keys than an answer holds (1,000) are all listed, in order."""
    for number in range(1005):
        bucket.put(f"many/{number}", b"")
    assert list(opened(proxy).keys("many/")) == sorted(f"many/{n}" for n in range(1005))


@pytest.mark.parametrize("fault", [Fault.DROP, 503, Fault.SLOW])
def test_listing_is_tried_again_and_then_given_up_with_advice(
    proxy: FaultProxy, fault: Fault | int
) -> None:
    """A source that cannot be listed cannot be used: `SourceError`, saying what to look at."""
    proxy.rules = [Rule("[?]prefix=*", fault, times=2)]
    assert opened(proxy).folders("odd/") == []
    proxy.rules = [Rule("[?]prefix=*", fault)]
    with pytest.raises(SourceError, match=r"s3://pmc-oa-opendata.*address"):
        opened(proxy).folders("odd/")


def test_nobody_listens_at_the_endpoint() -> None:
    """A refused connection is a failed fetch, with the number of tries."""
    store = open_store("s3://pmc-oa-opendata", settings("http://127.0.0.1:9"))
    error = refusal(store, KEY)
    assert error.reason is Reason.FETCH_FAILED and "3 tries" in error.detail
    with pytest.raises(SourceError):
        store.folders("a/")


def test_bucket_that_does_not_exist(proxy: FaultProxy) -> None:
    """Listing it is a `SourceError`."""
    store = open_store("s3://no-such-bucket", settings(proxy.endpoint))
    with pytest.raises(SourceError, match="no-such-bucket"):
        store.folders("a/")


@pytest.mark.parametrize(
    "uri", ["ftp://ftp.ncbi.nlm.nih.gov/pub/pmc", "gs://bucket", "https://host"]
)
def test_address_of_no_known_kind(uri: str) -> None:
    """The message shows what would do."""
    with pytest.raises(ConfigError, match="expected"):
        open_store(uri, settings(None))


@pytest.mark.parametrize(
    "key",
    [
        "/etc/passwd",
        "../a",
        "PMC1.1/../../a",
        "",
        "PMC1.1/a\n.jpg",
        "a\\..\\b",
        "PMC1.1/\x00",
        "a/..",
    ],
)
def test_keys_that_leave_the_source_are_refused_unasked(
    tmp_path: Path, proxy: FaultProxy, key: str
) -> None:
    """By both kinds of store, before anything is opened or asked."""
    assert not is_safe(key)
    for store in (opened(proxy), FolderStore(tmp_path)):
        assert refusal(store, key).reason is Reason.UNSAFE_PATH
    assert not proxy.requests


class TestFolder:
    """A folder behaves as a bucket does."""

    def test_bytes_digest_and_size_are_checked(self, tmp_path: Path) -> None:
        """The same three checks as of a bucket."""
        put(tmp_path, {KEY: DATA, "large": bytes(MEGABYTE + 1)})
        store = open_store(str(tmp_path), settings(None))
        assert store.get(KEY, md5=md5(DATA).hexdigest(), missing=Reason.MEDIA_MISSING) == DATA
        assert refusal(store, KEY, "0" * 32).reason is Reason.DIGEST_MISMATCH
        assert refusal(store, "large", max_mb=1).reason is Reason.MEDIA_TOO_LARGE

    @pytest.mark.parametrize("key", ["PMC1.1/none.jpg", "PMC1.1", "PMC1.1/a.jpg/b"])
    def test_what_is_no_file_is_missing(self, tmp_path: Path, key: str) -> None:
        """No file, a folder, a path through a file."""
        put(tmp_path, {KEY: DATA})
        assert refusal(FolderStore(tmp_path), key).reason is Reason.MEDIA_MISSING

    def test_link_out_of_the_folder_is_refused(self, tmp_path: Path) -> None:
        """A link inside it is followed, one that leaves it is not; nor into a folder of like name."""
        put(tmp_path, {"source/a.jpg": DATA, "source-secret/b.jpg": DATA})
        source = tmp_path / "source"
        (source / "inner.jpg").symlink_to(source / "a.jpg")
        (source / "outer.jpg").symlink_to(tmp_path / "source-secret" / "b.jpg")
        store = FolderStore(source)
        assert store.get("inner.jpg", missing=Reason.MEDIA_MISSING) == DATA
        assert refusal(store, "outer.jpg").reason is Reason.UNSAFE_PATH

    def test_source_may_itself_be_a_link(self, tmp_path: Path) -> None:
        """The folder given is resolved first."""
        put(tmp_path / "real", {KEY: DATA})
        (tmp_path / "link").symlink_to(tmp_path / "real")
        store = FolderStore(tmp_path / "link")
        assert store.get(KEY, missing=Reason.MEDIA_MISSING) == DATA
        assert list(store.keys("PMC1.1/")) == [KEY]

    def test_lists_and_folders_are_as_a_bucket_gives_them(
        self, tmp_path: Path, bucket: MotoBucket, proxy: FaultProxy
    ) -> None:
        """The same questions to both stores have the same answers."""
        keys = ["PMC7.1/a.jpg", "PMC7.10/a.jpg", "PMC7.2/sub/a.jpg", "PMC71.1/a.jpg", "zz/PMC7.9/b"]
        put(tmp_path, dict.fromkeys(keys, b""))
        for key in keys:
            bucket.put(key, b"")
        folder, remote = FolderStore(tmp_path), opened(proxy)
        for prefix in ("PMC7.", "zz/", "zz/PMC7", "none/"):
            assert folder.folders(prefix) == remote.folders(prefix), prefix
        for prefix in ("PMC7.2/", "zz/"):
            assert list(folder.keys(prefix)) == list(remote.keys(prefix)), prefix

    def test_no_such_folder(self, tmp_path: Path) -> None:
        """`SourceError`, with the name and what would do."""
        with pytest.raises(SourceError, match=r"none is no folder.*s3://"):
            FolderStore(tmp_path / "none")
