"""Sending prepared repositories to the Hub: no file twice, no file lost, and the token in no text.

Large files go by the Hub's own storage (xet): what is there already is not sent again, so an upload that broke
goes on where it ended, by starting it again. For an installation without it, `lfs` sends them by Git LFS.
The repository is made equal to the folder, so nothing of an earlier publication is left beside the new one.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from huggingface_hub import HfApi, constants, errors, get_token
from pydantic import AnyUrl, SecretStr, ValidationError

from migrl.errors import UserError
from migrl.publish.prepare import LISTING, Repository

HUB = constants._HF_DEFAULT_ENDPOINT
"""The Hub itself. The library's own default follows HF_ENDPOINT, to where the stored login does not belong."""

LOCAL_HOSTS = ("127.0.0.1", "localhost", "[::1]")
_HIDDEN = "[token]"


@dataclass(frozen=True)
class UploadSettings:
    """Where to send and how. `endpoint` None is the Hub; `lfs` is for an installation without xet storage."""

    token: SecretStr
    private: bool = True
    endpoint: str | None = None
    lfs: bool = False


def find_token(token_file: Path | None, endpoint: str | None) -> SecretStr:
    """The token of a file, else the one of `hf auth login`; the stored login goes to the Hub only.

    Raises:
        UserError: there is none, the file does not hold exactly one, or it would be sent where it does not belong.
    """
    check_endpoint(endpoint)
    if token_file is not None:
        try:
            words = token_file.read_text(encoding="utf-8").split()
        except (OSError, ValueError) as error:
            # The argument is not repeated: who misreads the option types the token itself.
            raise UserError(
                f"--token-file: cannot be read ({type(error).__name__}); it takes a file that holds the token"
            ) from None
        if len(words) != 1 or not (words[0].isascii() and words[0].isprintable()):
            raise UserError(f"{token_file}: must hold one token and nothing else; write it anew")
        return SecretStr(words[0])
    if endpoint is not None:
        raise UserError("--endpoint: the stored login belongs to the Hub and is not sent elsewhere; use --token-file")
    stored = get_token()
    if stored is None:
        raise UserError("no token: run `hf auth login` with a token that may write, or use --token-file FILE")
    return SecretStr(stored)


def check_endpoint(endpoint: str | None) -> None:
    """Refuse what is no address, or one that would carry the token unencrypted over a network.

    The address is not repeated: a password may be part of it.
    """
    if endpoint is None:
        return
    try:
        url = AnyUrl(endpoint)
    except ValidationError:
        url = None
    if url is None or not url.host or re.search(r"[\s?#]", endpoint):
        raise UserError("--endpoint: is no address of a Hub; write https://HOST")
    if url.username is not None or url.password is not None:
        raise UserError("--endpoint: holds a user name or password; leave them out and use --token-file")
    if url.scheme != "https" and not (url.scheme == "http" and url.host in LOCAL_HOSTS):
        raise UserError("--endpoint: must start with https://, for the token travels with each request")


def upload_repositories(
    repositories: Sequence[Repository], settings: UploadSettings, tell: Callable[[str], None]
) -> None:
    """Create the repositories that are not there, and make each equal to its folder; `tell` gets a line each.

    Nothing is sent to the first one before the last one may be written to.

    Raises:
        UserError: the Hub refuses, a repository holds other work, or is public although it should be private.
    """
    for act in (claim_repository, send_repository):
        for repository in repositories:
            name, fault, commit = f"{repository.kind} repository {repository.id}", "", ""
            try:
                with choose_transfer(settings.lfs):
                    commit = act(repository, settings)
            except (errors.HFValidationError, httpx.HTTPError, KeyError, OSError, RuntimeError, ValueError) as error:
                fault = explain(error, settings)
            if fault:
                # Raised out here: inside, the library's error with its request and headers would hang on this one.
                raise UserError(f"{name}: {fault}")
            if commit:
                tell(f"{name}: holds all its {len(repository.files)} files, commit {commit}")


def open_hub(settings: UploadSettings) -> HfApi:
    """The client, with the address and the token that were chosen and none from elsewhere."""
    return HfApi(endpoint=settings.endpoint or HUB, token=settings.token.get_secret_value())


def claim_repository(repository: Repository, settings: UploadSettings) -> str:
    """Create a repository, or make sure that an earlier publication may be replaced there; no commit is made.

    Raises:
        UserError: it holds other work, or is public although it should be private.
    """
    api = open_hub(settings)
    api.create_repo(repository.id, repo_type=repository.kind, private=settings.private, exist_ok=True)
    info = (api.model_info if repository.kind == "model" else api.dataset_info)(repository.id)
    if settings.private and not info.private:
        raise UserError(f"{repository.id}: exists and is public; use --public, or make it private on the Hub")
    there = {sibling.rfilename for sibling in info.siblings or []}
    foreign = sorted(there - {".gitattributes"})
    if foreign and LISTING not in there:
        raise UserError(f"{repository.id}: holds other work ({foreign[0]}), it would be replaced; choose another name")
    return ""


def send_repository(repository: Repository, settings: UploadSettings) -> str:
    """Send one repository's files; the commit that holds them."""
    commit = open_hub(settings).upload_folder(
        repo_id=repository.id,
        repo_type=repository.kind,
        folder_path=repository.folder,
        delete_patterns="*",
        commit_message="migrl publish",
    )
    return str(commit.oid)


@contextmanager
def choose_transfer(lfs: bool) -> Iterator[None]:
    """Have huggingface_hub use Git LFS; it asks this constant of its own, and no argument, for each upload."""
    before = constants.HF_HUB_DISABLE_XET
    constants.HF_HUB_DISABLE_XET = lfs or before
    try:
        yield
    finally:
        constants.HF_HUB_DISABLE_XET = before


def explain(error: Exception, settings: UploadSettings) -> str:
    """Reason and remedy of a failed upload, in words that hold neither address, header nor token."""
    secret, again = settings.token.get_secret_value(), "start the same command again, what was sent is kept"
    if isinstance(error, ValueError) and "metadata in README.md" in str(error):
        return f"the Hub refuses the card: {str(error).replace(secret, _HIDDEN)[:600]}"
    cause = error.__cause__ if isinstance(error.__cause__, errors.HfHubHTTPError) else error
    if isinstance(cause, errors.HfHubHTTPError):
        said = (cause.server_message or "").replace(secret, _HIDDEN)[:300]
        status = f"status {cause.response.status_code}{f', {said}' if said else ''}"
        if cause.response.status_code in (401, 403, 404):
            return f"refused ({status}); use a token that may write there (`hf auth login`, --token-file)"
        return f"the upload failed ({status}); {again}"
    storage = "" if settings.lfs else "; where the Hub has no xet storage, use --lfs"
    return f"the upload failed ({type(error).__name__}); check network and disk, then {again}{storage}"
