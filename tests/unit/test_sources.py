"""The catalogue of sources: the committed one is complete and pinned, and a broken one is refused in words."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from migrl.data.download import load_sources
from migrl.errors import UserError

REPO = "someone/data"
VALID: dict[str, Any] = {
    "repos": {REPO: {"type": "dataset", "revision": "1" * 40, "licence": "MIT", "gated": False, "note": "why"}},
    "sources": {
        "demo": {
            **{"benchmark": "mig_bench", "about": "a test", "annotations": "records.json", "images": ".", "records": 2},
            "files": [{"repo": REPO, "path": "records.json"}],
        }
    },
}


def test_every_source_of_the_repository_loads_and_is_pinned_or_explains_itself() -> None:
    sources = load_sources()
    counts = {name: source.records for name, source in sources.items() if source.records}
    assert counts == {
        **{"mig_bench": 4276, "mig_bench_original": 4295, "lisa_val": 200, "lisa_test": 779, "reasonvos": 458},
        **{"blink": 1901, "mmiu": 11698, "muirbench": 2600, "mc_bench": 2000, "ref_l4": 45341},
    }
    assert sources.keys() - counts == {"llmseg", "revos", "mgrounding", "univg", "coco"}
    assert len(sources["blink"].files) == 14 and sum(file.unpack for file in sources["mmiu"].files) == 7
    for source in sources.values():
        for repo in source.repos.values():
            assert re.fullmatch("[0-9a-f]{40}", repo.revision or "") or repo.note
            assert repo.licence
    by_folder: dict[tuple[str, str], str] = {}
    for source in sources.values():
        for file in source.files:
            if file.unpack:
                origin = f"{file.repo}/{file.path}"
                assert by_folder.setdefault((source.folder, file.into), origin) == origin


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotation": "x"}, r"key 'sources\.demo\.annotation': Extra inputs"),
        ({"records": 0}, r"key 'sources\.demo\.records': .*greater than or equal to 1"),
        ({"folder": "downloads/x"}, r"key 'sources\.demo': .*folder 'downloads/x' is not the source's own"),
        ({"images": "../other"}, r"key 'sources\.demo\.images': .*write a relative path"),
        ({"files": [{"repo": "no/such", "path": "x"}]}, r"sources\.demo\.files: no such repo in `repos`: no/such"),
        ({"files": [{"repo": REPO, "path": "x.zip", "unpack": True}]}, r"`unpack` needs `limits`"),
        (
            {"files": [{"repo": REPO, "path": "x", "sha256": "abc"}]},
            r"files\.0\.sha256': .*match pattern",
        ),
        ({"files": []}, r"either `files` or a text `manual`"),
        ({"revision": None, "note": ""}, r"key 'repos\.someone/data': .*revision is null: say in `note`"),
        ({"revision": "main"}, r"key 'repos\.someone/data\.revision': .*match pattern"),
    ],
)
def test_a_bad_sources_file_is_an_error_that_names_file_and_key(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    data = copy.deepcopy(VALID)
    target = data["repos"][REPO] if "revision" in change else data["sources"]["demo"]
    target.update(change)
    path = tmp_path / "sources.yaml"
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(UserError, match=rf"sources\.yaml: .*{message}"):
        load_sources(path)
