"""Publish an export to a Hugging Face dataset repository: checked first, in commits that can be resumed."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biomedica.errors import BiomedicaError, ConfigError
from biomedica.export import check_sums
from biomedica.export.sums import SUMS
from biomedica.records import LicenceGroup
from biomedica.shards import file_digest

TOKEN = "HF_TOKEN"
"""The environment variable that holds the token; it is read from nowhere else and never shown."""
FILES_IN_COMMIT = 100
"""The Hub asks for about so many files a commit."""
_FOLDERS = tuple(f"{group.value}/" for group in LicenceGroup)
"""Folders of a repository that belong to an export: what else lies in them is of an older one."""


class PublishError(BiomedicaError):
    """The repository cannot be reached, or it refuses what was asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """What a publication did, or in a dry run would do."""

    repository: str
    files: Mapping[str, int]
    """Bytes of every file of the export by its path."""
    uploaded: tuple[str, ...]
    """Paths that the repository did not have; in a dry run, all of them."""
    deleted: tuple[str, ...]
    """Shards of an older export that are no longer listed."""
    num_commits: int
    url: str | None
    """Where the dataset stands; None in a dry run."""

    @property
    def num_bytes(self) -> int:
        """Of the files that were sent."""
        return sum(self.files[path] for path in self.uploaded)


def publish(
    folder: Path,
    repo_id: str,
    *,
    endpoint: str | None = None,
    revision: str = "main",
    private: bool = True,
    dry_run: bool = False,
    files_in_commit: int = FILES_IN_COMMIT,
    on_file: Callable[[str, int], None] = lambda path, size: None,
    on_commit: Callable[[int, int], None] = lambda done, total: None,
) -> Upload:
    """Upload an export, after every file was held against SHA256SUMS.

    Shards come first, in commits of their own; the card, the sums and the removal of an older export's
    shards are the last commit. A run that was interrupted is finished by the same call: files that
    the repository has are not sent again. The token is read from the environment variable HF_TOKEN.

    endpoint    another hub than huggingface.co
    private     of a repository that has to be made; one that stands keeps what it is
    dry_run     check and list the files; nothing is asked of the network
    on_file     path and bytes of each file, as it is checked
    on_commit   files sent and files to send, after each commit

    Raises `ArchiveError` where the folder is not what SHA256SUMS says, `ConfigError` for a missing token
    or a name that cannot be, `PublishError` where the hub cannot be reached or refuses.
    """
    if files_in_commit < 1:
        raise ConfigError(f"files_in_commit is {files_in_commit}; at least 1 is needed")
    digests = check_sums(folder, on_file) | {SUMS: file_digest(folder / SUMS)}
    sizes = {path: (folder / path).stat().st_size for path in sorted(digests)}
    if dry_run:
        return Upload(
            repository=repo_id,
            files=sizes,
            uploaded=tuple(sizes),
            deleted=(),
            num_commits=0,
            url=None,
        )
    token = os.environ.get(TOKEN, "").strip()
    if not token:
        raise ConfigError(
            f"{TOKEN} is not set: put a token that may write to {repo_id} into the environment "
            "(huggingface.co, Settings, Access Tokens)"
        )
    repository = _Repository(repo_id, endpoint, token, revision)
    with repository.errors():
        repository.create(private)
        return _upload(repository, folder, digests, sizes, files_in_commit, on_commit)


def _upload(
    repository: _Repository,
    folder: Path,
    digests: Mapping[str, str],
    sizes: Mapping[str, int],
    files_in_commit: int,
    on_commit: Callable[[int, int], None],
) -> Upload:
    remote = repository.files()
    missing = [
        path for path in sizes if not _is_same(folder / path, digests[path], remote.get(path))
    ]
    stale = [p for p in sorted(remote) if p.startswith(_FOLDERS) and p not in sizes]
    shards = [path for path in missing if "/" in path]
    rest = [path for path in missing if "/" not in path]
    done = commits = 0
    for start in range(0, len(shards), files_in_commit):
        batch = shards[start : start + files_in_commit]
        repository.commit(folder, batch, [], f"Shards {batch[0]} to {batch[-1]}")
        done, commits = done + len(batch), commits + 1
        on_commit(done, len(missing))
    if rest or stale:
        repository.commit(folder, rest, stale, "Card, attribution and sums")
        commits += 1
        on_commit(len(missing), len(missing))
    _check_remote(folder, digests, repository.files() if commits else remote)
    return Upload(
        repository=repository.name,
        files=sizes,
        uploaded=tuple(missing),
        deleted=tuple(stale),
        num_commits=commits,
        url=repository.url,
    )


def _check_remote(folder: Path, digests: Mapping[str, str], remote: Mapping[str, Any]) -> None:
    wrong = [p for p in sorted(digests) if not _is_same(folder / p, digests[p], remote.get(p))]
    if wrong:
        raise PublishError(
            f"after the upload the repository's {wrong[0]} ({len(wrong)} files in all) is not the one of "
            f"{folder}: another commit may have come in between. Publish again"
        )


def _is_same(path: Path, digest: str, remote: Any) -> bool:
    """Whether a file of the repository has the bytes of a file of the export."""
    if remote is None:
        return False
    if remote.lfs is not None:
        return bool(remote.lfs.sha256 == digest)
    data = path.read_bytes() if path.stat().st_size == remote.size else None
    return data is not None and _git_digest(data) == remote.blob_id


def _git_digest(data: bytes) -> str:
    """Git's name for a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


class _Repository:
    """A dataset repository on a hub."""

    def __init__(self, name: str, endpoint: str | None, token: str, revision: str) -> None:
        hub = _hub()
        try:
            hub.utils.validate_repo_id(name)
        except hub.errors.HFValidationError as error:
            raise ConfigError(f"{name!r} is no name of a repository: {error}") from None
        self.name = name
        self._token = token
        self._revision = revision
        self._api = hub.HfApi(endpoint=endpoint, token=token, library_name="biomedica")
        self.url = f"{self._api.endpoint}/datasets/{name}"

    def create(self, private: bool) -> None:
        """Make the repository and the branch where they do not stand."""
        hub = _hub()
        try:
            self._api.repo_info(self.name, repo_type="dataset")
        except hub.errors.GatedRepoError:
            raise
        except hub.errors.RepositoryNotFoundError as error:
            if error.response is not None and error.response.status_code == 401:
                raise
            self._api.create_repo(self.name, repo_type="dataset", private=private, exist_ok=True)
        if self._revision != "main":
            self._api.create_branch(
                self.name, branch=self._revision, repo_type="dataset", exist_ok=True
            )

    def files(self) -> dict[str, Any]:
        """What the repository holds, by path."""
        tree = self._api.list_repo_tree(
            self.name, recursive=True, repo_type="dataset", revision=self._revision
        )
        return {each.path: each for each in tree if hasattr(each, "blob_id")}

    def commit(
        self, folder: Path, paths: Sequence[str], stale: Sequence[str], message: str
    ) -> None:
        """Add files and remove others, all at once."""
        hub = _hub()
        added = [
            hub.CommitOperationAdd(path_in_repo=path, path_or_fileobj=str(folder / path))
            for path in paths
        ]
        removed = [hub.CommitOperationDelete(path_in_repo=path) for path in stale]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the hub's opinions on the card
            self._api.create_commit(
                self.name,
                [*removed, *added],
                commit_message=message,
                repo_type="dataset",
                revision=self._revision,
            )

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Say in our words what the hub refuses, and nothing that was secret."""
        hub = _hub()
        try:
            yield
        except hub.errors.HfHubHTTPError as error:
            raise PublishError(self._refusal(error)) from None
        except RuntimeError as error:  # around the answer to one file of a commit
            cause = error.__cause__
            if isinstance(cause, hub.errors.HfHubHTTPError):
                raise PublishError(self._refusal(cause)) from None
            if isinstance(cause, _network_errors()):
                raise PublishError(self._unreachable(cause)) from None
            raise
        except _network_errors() as error:
            raise PublishError(self._unreachable(error)) from None

    def _refusal(self, error: Any) -> str:
        status = error.response.status_code if error.response is not None else None
        said = self._clean(error.server_message or str(error))
        advice = {
            401: f"the token in {TOKEN} is not accepted, or the repository is not yours to see; make a "
            "new token that may write",
            403: f"the token in {TOKEN} may not write to it, or access is gated: accept its terms on its "
            "page, and give the token the right to write",
            404: "there is no such repository or branch; check the name",
            409: "it changed at the same time; publish again: what was sent is not sent twice",
            412: "it changed at the same time; publish again: what was sent is not sent twice",
            413: "a file or commit is too large for it; export with fewer samples a shard",
            429: "it was asked too often; wait some minutes and publish again",
        }.get(status or 0, "publish again: what was sent is not sent twice")
        return f"{self.url} answers {status} ({said}): {advice}"

    def _unreachable(self, error: BaseException) -> str:
        said = self._clean(f"{type(error).__name__}: {error}")
        return (
            f"{self.url}: the upload stopped ({said}). Check the network, and publish again: what was "
            "sent is not sent twice"
        )

    def _clean(self, text: str) -> str:
        return " ".join(text.replace(self._token, "***").split())[:300]


def _network_errors() -> tuple[type[Exception], ...]:
    """Errors of the HTTP library that the hub's client uses; which one that is changes over time, but
    its base class is one of the client's own error."""
    bases = _hub().errors.HfHubHTTPError.__bases__
    return (OSError, ValueError, *bases)


def _hub() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.errors
        import huggingface_hub.utils
    except ModuleNotFoundError:
        raise ConfigError(
            "publishing needs huggingface_hub: `pip install 'biomedica[hub]'`"
        ) from None
    return huggingface_hub
