"""The one error a user is meant to read: what is wrong, where, and the remedy."""

import errno

TORN_WRITE = ("PytorchStreamWriter failed", "unexpected pos ")
"""torch.save only tells that less was written than it meant to: most often, but not surely, for a full disk."""


class UserError(Exception):
    """Bad input or a broken precondition. The command prints it without a traceback and exits 1.

    The message names the file, record or key, then the reason, then the remedy.
    """


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, of Python or of a library that writes by itself, means a full disk or quota."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return any(sign in str(error) for sign in ("No space left on device", "os error 28", *TORN_WRITE))


def explain_full_disk(error: BaseException, place: str) -> str:
    """The message for a full disk."""
    where = getattr(error, "filename", None) or place
    if any(sign in str(error) for sign in TORN_WRITE):
        return (
            f"{where}: a file could not be written whole ({error}): the disk or a quota is full, or the disk is broken "
            "(dmesg); free space or use --runs DIR on another disk, then start again: it resumes"
        )
    return f"{where}: the disk is full; free space or use --runs DIR on another disk, then start again: it resumes"
