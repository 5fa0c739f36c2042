"""What is asked from the Hub, and what its refusals mean for the user."""

import glob
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from huggingface_hub import HfApi, errors, get_hf_file_metadata, hf_hub_url
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers, tqdm  # type: ignore[attr-defined]

from migrl.data.download.catalog import Repo
from migrl.errors import UserError, is_disk_full
from migrl.progress import Lines


class DownloadBar(tqdm):
    """The bar of huggingface_hub; without a terminal no bar, but a plain line a minute.

    Of a whole folder it makes three: files, bytes that came and bytes that were written. The last are told.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        silent = not sys.stderr.isatty()
        if silent:
            options["disable"] = True  # the bar of files would be drawn all the same
        super().__init__(*arguments, **options)  # type: ignore[no-untyped-call]
        told = silent and options.get("unit") == "B" and not str(options.get("name")).endswith(".transfer")
        self.lines = Lines("downloading", 0, int(options.get("initial") or 0), in_bytes=True) if told else None

    def update(self, n: float | None = 1) -> Any:
        if self.lines is not None:
            self.lines.total = int(self.total or 0)  # of a folder it grows as files are begun
            self.lines.tell(self.lines.done + int(n or 0))
        return super().update(n)


class Hub:
    """The Hub, or what answers like it at `endpoint`, for some repositories; all errors are UserErrors."""

    def __init__(self, repos: Mapping[str, Repo], endpoint: str | None) -> None:
        self.repos, self.endpoint, self.api = repos, endpoint, HfApi(endpoint=endpoint)

    def find_commit(self, name: str) -> str:
        """Commit of a repository's main branch."""
        with self._explain_errors(name, name, None):
            return str(self.api.repo_info(name, repo_type=self.repos[name].type).sha)

    def list_files(self, name: str, commit: str) -> list[str]:
        with self._explain_errors(name, name, commit):
            return self.api.list_repo_files(name, repo_type=self.repos[name].type, revision=commit)

    def find_size_and_hash(self, name: str, path: str, commit: str) -> tuple[int | None, str | None]:
        """Size in bytes of a file, and its SHA-256 where the Hub tells it (large files)."""
        url = hf_hub_url(name, path, repo_type=self.repos[name].type, revision=commit, endpoint=self.endpoint)
        with self._explain_errors(f"{name}/{path}", name, commit):
            found = get_hf_file_metadata(url, endpoint=self.endpoint)
        return found.size, found.etag if re.fullmatch(r"[0-9a-f]{64}", found.etag or "") else None

    def download(self, name: str, path: str, commit: str, size: int | None, target: Path) -> None:
        """Put a file of `size` bytes at `target`, going on with what a killed run left of it.

        `hf_hub_download` would start a file again after a kill (it names its partial files at random); files here
        have 10 GB and more, and their content is fixed by the commit, so the bytes that are there are kept.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f"{target.name}.{commit[:12]}.partial")
        for rest in target.parent.glob(f"{glob.escape(target.name)}.*.partial"):
            if rest != partial or (size is not None and rest.stat().st_size > size):
                rest.unlink()
        url = hf_hub_url(name, path, repo_type=self.repos[name].type, revision=commit, endpoint=self.endpoint)
        with self._explain_errors(f"{name}/{path}", name, commit), partial.open("ab") as file:
            headers, start = build_hf_headers(), file.tell()
            http_get(url, file, resume_size=start, headers=headers, expected_size=size, tqdm_class=DownloadBar)
        partial.replace(target)

    @contextmanager
    def _explain_errors(self, what: str, name: str, commit: str | None) -> Iterator[None]:
        """Turn what huggingface_hub raises into one message. It quotes no address and no header: they hold tokens."""
        try:
            yield
        except (errors.HFValidationError, httpx.HTTPError, OSError, RuntimeError, ValueError) as error:
            if is_disk_full(error):
                raise
            wrapped = isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__
            raise UserError(f"{what}: {_explain(wrapped or error, self.repos[name], commit)}") from error


def _explain(error: BaseException, repo: Repo, commit: str | None) -> str:
    """Reason of a failed request, and remedy."""
    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else None
    licence = f"accept its terms ({repo.licence}) on its page on the Hub, then `hf auth login`"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"the Hub has no revision {commit} of it; correct it in sources.yaml"
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return f"the Hub has no such file at {commit}; correct it in sources.yaml"
    if isinstance(error, errors.GatedRepoError) or (repo.gated and status in (401, 403, 404)):
        return f"access is granted on request only; {licence}; or get it elsewhere and use --offline"
    if status in (401, 403, 404):
        return (
            f"no access (status {status}): the {repo.type} is private, gated, renamed or gone; {licence}; "
            "or get it elsewhere and use --offline"
        )
    reason = f"status {status}" if status else type(error).__name__
    return (
        f"the download failed ({reason}); check the network and start again, finished files are kept; "
        "or get the files elsewhere and use --offline"
    )
