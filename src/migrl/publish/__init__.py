"""Sharing a finished run: two repositories with cards, checked file by file, and their upload.

    OWNER/NAME       model: the adapters of cold start and RL (or whole weights), processor files, model card
    OWNER/NAME-data  data set: cot.jsonl, rl.jsonl, their card, and the evidence below evidence/

Evidence is data with the same readers, so it needs no repository of its own; weights need one, because
people load a repository's root. Nothing is sent unless the user says so.
"""

from migrl.publish.prepare import Repository, prepare_repositories
from migrl.publish.upload import UploadSettings, find_token, upload_repositories

__all__ = ["Repository", "UploadSettings", "find_token", "prepare_repositories", "upload_repositories"]
