"""The errors a user is meant to read: what is wrong, where, and the remedy."""

import errno
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

MAX_CHARS = 2000
TORN_WRITE = ("PytorchStreamWriter failed", "unexpected pos ")
"""torch.save only tells that less was written than it meant to: most often, but not surely, for a full disk."""
FULL = (errno.ENOSPC, errno.EDQUOT)
OTHER_PLACE = "or name another place (--runs DIR, --results DIR)"
REMEDIES = {
    errno.EACCES: f"give yourself the right to it, {OTHER_PLACE}",
    errno.EPERM: f"give yourself the right to it, {OTHER_PLACE}",
    errno.EROFS: f"make it writable, {OTHER_PLACE}",
    errno.EEXIST: f"a file is where a folder should be; move it away, {OTHER_PLACE}",
    errno.ENOTDIR: f"a file is where a folder should be; move it away, {OTHER_PLACE}",
    errno.EISDIR: f"a folder is where a file should be; move it away, {OTHER_PLACE}",
    errno.ENOTEMPTY: f"a folder is where a file should be; move it away, {OTHER_PLACE}",
    errno.ENOENT: "check the name, and that nothing else deletes it; then start again",
    errno.ENAMETOOLONG: "use a shorter name",
    errno.ELOOP: "its links lead to themselves; correct them",
    errno.EMFILE: "raise the limit of open files (ulimit -n) and start again",
    errno.EIO: "the disk is broken or was taken away (dmesg); mend it and start again",
}


class UserError(Exception):
    """Bad input or a broken precondition. The command prints it without a traceback and exits 1.

    The message names the file, record or key, then the reason, then the remedy. A long one, such as one that quotes a
    whole completion, keeps its start and its end, and can be printed whatever it quotes.
    """

    def __init__(self, message: str) -> None:
        super().__init__(shorten(message.encode("utf-8", "backslashreplace").decode("utf-8")))


def shorten(text: str, limit: int = MAX_CHARS) -> str:
    """A text of at most `limit` characters: where it is longer, its middle is left out, and it says how much."""
    if len(text) <= limit:
        return text
    kept = limit - len(f" [... {len(text)} characters left out ...] ")
    tail = kept // 3
    return f"{text[: kept - tail]} [... {len(text) - kept} characters left out ...] {text[len(text) - tail :]}"


class OutOfMemory(UserError):
    """A GPU ran out of memory in the middle of a stage; `said` are the first of torch's words.

    What to lower follows from the recipe (plan/out_of_memory.py).
    """

    def __init__(self, stage: str, said: str) -> None:
        said = said.partition(" Including non-PyTorch")[0].rstrip(".")
        super().__init__(f"{stage}: the GPU ran out of memory ({said}); use GPUs with more memory or smaller batches")
        self.stage, self.said = stage, said


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, of Python or of a library that writes by itself, means a full disk or quota."""
    if isinstance(error, OSError) and error.errno in FULL:
        return True
    return any(sign in str(error) for sign in ("No space left on device", "os error 28", *TORN_WRITE))


def explain_full_disk(error: BaseException, place: str) -> str:
    """The message for a full disk."""
    # A copy that fails names its source first.
    where = getattr(error, "filename2", None) or getattr(error, "filename", None) or place
    if any(sign in str(error) for sign in TORN_WRITE):
        return (
            f"{where}: a file could not be written whole ({error}): the disk or a quota is full, or the disk is broken "
            f"(dmesg); free space {OTHER_PLACE} on another disk, then start again: it resumes"
        )
    return f"{where}: the disk is full; free space {OTHER_PLACE} on another disk, then start again: it resumes"


def explain_os_error(error: OSError) -> str:
    """The message for a file or folder that the system did not let us read or write."""
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    reason = error.strerror or str(error) or type(error).__name__
    remedy = REMEDIES.get(error.errno or 0, "mend the cause and start again")
    return f"{' -> '.join(names) or 'the system'}: {reason}; {remedy}"


def find_fullest(places: Iterable[Path]) -> Path:
    """The place with the least room, of those a command may have written to; one that is not there yet is its parent.

    A write to a full disk does not say where it was.
    """
    return min(places, key=lambda place: shutil.disk_usage(find_existing(place)).free)


def find_existing(place: Path) -> Path:
    """A place, or of one that is not there yet the closest folder above it that is; as an absolute path."""
    return next(folder for folder in (place.absolute(), *place.absolute().parents) if os.path.lexists(folder))
