"""A publication sends what was checked, once, and says plainly what a hub refuses."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from biomedica.errors import ArchiveError, ConfigError
from biomedica.export.sums import sums_text
from biomedica.publish import PublishError, publish
from hub import TOKEN, Hub, running_hub

pytest.importorskip("huggingface_hub")
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
"""The hub's client uses an old way of its HTTP library."""
REPOSITORY = "group/figures"
SHARDS = tuple(f"{group}/train/{i:06d}.tar" for group in ("commercial", "other") for i in range(3))


def write_folder(folder: Path, changed: str = "") -> Path:
    """Files in the layout of an export; the content tells the path, and what `changed` says."""
    files = {path: f"{path} {changed}".encode() * 100 for path in SHARDS}
    files["ATTRIBUTION.parquet"] = b"PAR1 who made it"
    files["README.md"] = b"---\nlicense: other\n---\n\n# Figures\n"
    files["croissant.json"] = f'{{"name": "{changed}"}}'.encode()
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    digests = {path: hashlib.sha256(data).hexdigest() for path, data in files.items()}
    (folder / "SHA256SUMS").write_bytes(sums_text(digests))
    return folder


def local(folder: Path) -> dict[str, bytes]:
    """Bytes of every file by path."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "export")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub that speaks the plain protocol for large files, and a token for it."""
    from huggingface_hub import constants
    from huggingface_hub.utils import disable_progress_bars, enable_progress_bars

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # read once, at whose test it may be
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "huggingface"))
    disable_progress_bars()
    with running_hub() as server:
        yield server
    enable_progress_bars()


def send(hub: Hub, folder: Path, **options: Any) -> Any:
    """Publish to the test's hub."""
    return publish(folder, REPOSITORY, endpoint=hub.endpoint, **options)


def test_everything_arrives_and_the_card_comes_last(hub: Hub, folder: Path) -> None:
    result = send(hub, folder, files_in_commit=4)
    assert hub.data(REPOSITORY) == local(folder)
    assert hub.private == {REPOSITORY: True}
    assert [len(each["added"]) for each in hub.commits] == [4, 2, 4]
    assert set(hub.commits[-1]["added"]) == {path for path in local(folder) if "/" not in path}
    assert result.num_commits == 3
    assert set(result.uploaded) == local(folder).keys()
    assert result.num_bytes == sum(map(len, local(folder).values()))
    assert result.url == f"{hub.endpoint}/datasets/{REPOSITORY}"


def test_a_second_run_sends_nothing(hub: Hub, folder: Path) -> None:
    send(hub, folder)
    sent, commits = list(hub.sent), list(hub.commits)
    result = send(hub, folder)
    assert (result.uploaded, result.deleted, result.num_commits) == ((), (), 0)
    assert (hub.sent, hub.commits) == (sent, commits)


@pytest.mark.parametrize("where", ["PUT", "commit"])
def test_a_run_that_broke_is_finished_by_the_next(hub: Hub, folder: Path, where: str) -> None:
    asked = 0

    def refuse(method: str, path: str) -> int | None:
        nonlocal asked
        asked += method == "PUT" if where == "PUT" else "/commit/" in path
        return 403 if asked > (4 if where == "PUT" else 1) else None

    hub.refuse = refuse
    with pytest.raises(PublishError, match="403"):
        send(hub, folder, files_in_commit=2)
    assert "README.md" not in hub.data(REPOSITORY)
    committed = [path for each in hub.commits for path in each["added"]]
    assert committed
    hub.refuse = lambda method, path: None
    result = send(hub, folder, files_in_commit=2)
    assert hub.data(REPOSITORY) == local(folder)
    assert not set(result.uploaded) & set(committed)
    assert len(hub.sent) == len(set(hub.sent)), "bytes were sent twice"


def test_a_new_version_replaces_the_old_one(hub: Hub, folder: Path, tmp_path: Path) -> None:
    hub.make(REPOSITORY)["picture_of_the_group.png"] = hub.make("x/y")[".gitattributes"]
    send(hub, folder)
    gone = "commercial/train/000002.tar"
    newer = write_folder(tmp_path / "newer")
    (newer / gone).unlink()
    (newer / "commercial/train/000001.tar").write_bytes(b"other pictures")
    files = {path: data for path, data in local(newer).items() if path != "SHA256SUMS"}
    digests = {path: hashlib.sha256(data).hexdigest() for path, data in files.items()}
    (newer / "SHA256SUMS").write_bytes(sums_text(digests))
    result = send(hub, newer)
    assert result.deleted == (gone,)
    assert set(result.uploaded) == {"commercial/train/000001.tar", "SHA256SUMS"}
    found = hub.data(REPOSITORY)
    assert found.pop("picture_of_the_group.png")
    assert found == local(newer)
    assert hub.commits[-1]["removed"] == [gone]


def test_a_dry_run_asks_nobody(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    seen: list[str] = []
    result = send(hub, folder, dry_run=True, on_file=lambda path, size: seen.append(path))
    assert not hub.asked
    assert dict(result.files) == {path: len(data) for path, data in local(folder).items()}
    assert set(seen) == result.files.keys() - {"SHA256SUMS"}
    assert result.url is None


@pytest.mark.parametrize("damage", ["changed", "missing", "added", "no sums", "bad sums"])
def test_a_damaged_folder_is_not_sent(hub: Hub, folder: Path, damage: str) -> None:
    shard = folder / SHARDS[1]
    if damage == "changed":
        shard.write_bytes(b"x" + shard.read_bytes()[1:])
    elif damage == "missing":
        shard.unlink()
    elif damage == "added":
        (folder / "private_notes.txt").write_text("not to be published")
    elif damage == "no sums":
        (folder / "SHA256SUMS").unlink()
    else:
        (folder / "SHA256SUMS").write_text(f"{'0' * 64}  ../../etc/passwd\n")
    with pytest.raises(ArchiveError, match="SHA256SUMS"):
        send(hub, folder)
    assert not hub.asked


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "token in HF_TOKEN is not accepted"),
        (403, "may not write to it, or access is gated"),
        (409, "changed at the same time"),
        (412, "changed at the same time"),
    ],
)
@pytest.mark.parametrize("where", ["/api/datasets/group/figures", "/preupload/", "/commit/"])
def test_refusals_in_words_and_without_the_token(
    hub: Hub, folder: Path, status: int, words: str, where: str
) -> None:
    hub.make(REPOSITORY)
    hub.refuse = lambda method, path: status if where in path else None
    with pytest.raises(PublishError, match=words) as raised:
        send(hub, folder)
    assert str(status) in str(raised.value)
    assert TOKEN not in str(raised.value)
    assert raised.value.__cause__ is None


def test_a_branch_is_made(hub: Hub, folder: Path) -> None:
    send(hub, folder, revision="v1")
    assert hub.asked["POST /api/datasets/group/figures/branch/v1"] == 1
    assert hub.asked["POST /api/datasets/group/figures/commit/v1"]


def test_what_the_hub_lost_is_noticed(hub: Hub, folder: Path) -> None:
    def lose(method: str, path: str) -> int | None:
        if len(hub.commits) == 2:
            hub.repositories[REPOSITORY].pop(SHARDS[0], None)
        return None

    hub.refuse = lose
    with pytest.raises(PublishError, match=f"{SHARDS[0]}.*Publish again"):
        send(hub, folder)
    hub.refuse = lambda method, path: None
    assert send(hub, folder).uploaded == (SHARDS[0],)


def test_no_network(folder: Path, hub: Hub) -> None:
    with pytest.raises(PublishError, match="Check the network"):
        publish(folder, REPOSITORY, endpoint="http://127.0.0.1:9")


def test_no_token(folder: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", " ")
    with pytest.raises(ConfigError, match="HF_TOKEN is not set"):
        send(hub, folder)
    assert not hub.asked


@pytest.mark.parametrize("name", ["a/b/c", "a b", "../up", ""])
def test_names_that_cannot_be(folder: Path, hub: Hub, name: str) -> None:
    with pytest.raises(ConfigError, match="no name of a repository"):
        publish(folder, name, endpoint=hub.endpoint)
    assert not hub.asked


def test_a_repository_that_stands_keeps_its_visibility(hub: Hub, folder: Path) -> None:
    hub.make(REPOSITORY)
    send(hub, folder, private=True)
    assert "POST /api/repos/create" not in hub.asked
    shutil.rmtree(folder)
