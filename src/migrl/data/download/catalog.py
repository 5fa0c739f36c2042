"""`reproduce/sources.yaml`: what each benchmark's data consists of, and where it comes from."""

import re
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from migrl.data.download.unpack import UnpackLimits
from migrl.files import ROOT, Strict
from migrl.yaml_file import load_model

SOURCES_FILE = ROOT / "reproduce" / "sources.yaml"
DOWNLOADS = "downloads"


def _check_relative(path: str) -> str:
    """A path that stays inside its folder; `.` is the folder itself."""
    if path.startswith("/") or "\\" in path or ".." in path.split("/") or path != PurePosixPath(path).as_posix():
        raise ValueError("write a relative path with single slashes and without `..`")
    return path


_Inside = Annotated[str, AfterValidator(_check_relative)]
_Text = Annotated[str, Field(min_length=1)]
_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Commit = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
_HubId = Annotated[str, Field(pattern=r"^[\w-][\w.-]*/[\w-][\w.-]*$")]


class Repo(Strict):
    """A Hub repository. Without a pinned `revision`, `note` says why; the first fetch then fixes the commit."""

    type: Literal["dataset", "model"]
    revision: Commit | None
    licence: _Text
    gated: bool = False
    note: str = ""

    @model_validator(mode="after")
    def _check_revision(self) -> Self:
        if self.revision is None and not self.note:
            raise ValueError("revision is null: say in `note` why no full commit is pinned")
        return self


class SourceFile(Strict):
    """One file of a Hub repository, or all that a pattern matches (`*` and `?` within one part of a path).

    What is not unpacked keeps its path in the repository, below `into`. A zip's content becomes the folder
    `into`; `holds` are sub-folders by which the right folder inside the zip is found. A split archive is
    the pattern `name.z*`. `gb` is for people.
    """

    repo: _HubId
    path: _Inside
    sha256: _Sha256 | None = None
    bytes: Annotated[int, Field(ge=0)] | None = None
    gb: float | None = None
    unpack: bool = False
    into: _Inside = "."
    holds: tuple[_Text, ...] = ()
    limits: UnpackLimits | None = None

    @property
    def is_pattern(self) -> bool:
        return bool(re.search(r"[*?\[]", self.path))

    def matches(self, path: str) -> bool:
        """Whether a path in the repository is the file, or one of those that the pattern means."""
        return path.count("/") == self.path.count("/") and PurePosixPath(path).match(self.path)

    @model_validator(mode="after")
    def _check_unpacking(self) -> Self:
        if self.unpack and (self.limits is None or self.into == "."):
            raise ValueError(f"{self.path}: `unpack` needs `limits`, and a folder of its own in `into`")
        if not self.unpack and (self.limits or self.holds):
            raise ValueError(f"{self.path}: `limits` and `holds` belong to `unpack: true`")
        if self.is_pattern and self.unpack and not re.fullmatch(r"[^*?\[]+\.z\*", self.path):
            raise ValueError(f"{self.path}: `unpack` takes one zip, or the volumes of one as `name.z*`")
        if self.is_pattern and (self.sha256 or self.bytes is not None):
            raise ValueError(f"{self.path}: a pattern has no one sha256 and no one size")
        return self


class Source(Strict):
    """One benchmark's data, or a part of the training data.

    `annotations` and `images` are paths inside `folder`, which sources may share. `benchmark` names the benchmark that
    reads it, by its own name unless the file says otherwise.
    Where pictures lie inside parquet files, `images` is an empty folder for the benchmark's loader to fill.
    """

    name: _Text
    benchmark: _Text
    about: _Text
    folder: _Inside
    files: tuple[SourceFile, ...] = ()
    repos: dict[str, Repo] = {}
    manual: str | None = None
    annotations: _Inside
    images: _Inside
    records: Annotated[int, Field(ge=1)] | None

    @model_validator(mode="after")
    def _check_files(self) -> Self:
        if bool(self.files) == bool(self.manual):
            raise ValueError("a source has either `files` or a text `manual`")
        if PurePosixPath(self.folder).parts[:1] in ((), (DOWNLOADS,)):
            raise ValueError(f"folder {self.folder!r} is not the source's own; name another one")
        targets = [PurePosixPath(file.into) for file in self.files if file.unpack]
        for n, target in enumerate(targets):
            if any(target.is_relative_to(other) or other.is_relative_to(target) for other in targets[:n]):
                raise ValueError(f"two zips would be unpacked into {target}; give each an `into` of its own")
        return self


class _Catalog(Strict):
    """The whole file. A source's name, and unless it says otherwise its folder and benchmark, is its key."""

    repos: dict[str, Repo]
    sources: dict[str, Source]

    @model_validator(mode="before")
    @classmethod
    def _name_sources(cls, data: Any) -> Any:
        entries = data.get("sources") if isinstance(data, dict) else None
        if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
            return data  # whose fault is then told
        named = {key: {"folder": key, "benchmark": key, **entry, "name": key} for key, entry in entries.items()}
        return {**data, "sources": named}

    @model_validator(mode="after")
    def _check_repos(self) -> Self:
        for name, source in self.sources.items():
            if unknown := {file.repo for file in source.files} - self.repos.keys():
                raise ValueError(f"sources.{name}.files: no such repo in `repos`: {', '.join(sorted(unknown))}")
        return self


def load_sources(path: Path = SOURCES_FILE) -> dict[str, Source]:
    """Read the sources; each carries the repositories that it uses.

    Raises:
        UserError: no such file, no YAML, an unknown or missing key, or a bad value; it names file and key.
    """
    catalog = load_model(path, _Catalog)
    used = {name: sorted({file.repo for file in source.files}) for name, source in catalog.sources.items()}
    return {
        name: source.model_copy(update={"repos": {repo: catalog.repos[repo] for repo in used[name]}})
        for name, source in catalog.sources.items()
    }
