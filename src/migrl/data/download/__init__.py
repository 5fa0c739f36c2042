"""Where the benchmarks' data comes from, and how to obtain it: download or find, check, unpack, lay out.

`reproduce/sources.yaml` is read into frozen models. `obtain` fills one folder for all sources:

    downloads/<owner>/<name>/   files as they lie in the Hub repository, shared by the sources
    fetched.json                revision of each repository; SHA-256, size and time stamp of each file
    <source's folder>/          annotations and unpacked images, as the benchmark's loader reads them

A hash is checked against sources.yaml; where nothing is stated there, the first fetch is recorded and
holds from then on, and so does the commit of a repository that has no pinned revision.
"""

from migrl.data.download.catalog import SOURCES_FILE, Repo, Source, SourceFile, load_sources
from migrl.data.download.download import FetchedFile, Obtained, find_changes, obtain, refuse_missing

__all__ = [
    "SOURCES_FILE",
    "FetchedFile",
    "Obtained",
    "Repo",
    "Source",
    "SourceFile",
    "find_changes",
    "load_sources",
    "obtain",
    "refuse_missing",
]
