"""The test recipe's run, published: the loading code of its model card gives the weights that were evaluated."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from smoke_run import ROOT, FinishedRun, call_migrl
from transformers import AutoModelForImageTextToText


def load_by_card(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run the card's Python block as it stands, with the local folder in the place of the repository."""
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    monkeypatch.chdir(ROOT)
    exec(code.replace("owner/name", str(folder)), names)
    return names


def test_both_forms_of_the_model_load_by_their_card_as_the_weights_that_were_evaluated(
    finished: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = ["--runs", finished.runs, "--results", finished.results.parent, "--to", "owner/name", "--allow-dirty"]
    loaded = {}
    for form in ("adapters", "merged"):
        options = ["--merged"] if form == "merged" else []
        result = call_migrl("publish", "--recipe", "test", *places, "--out", tmp_path / form, *options)
        assert result.returncode == 0, result.stderr[-3000:]
        assert "nothing was sent" in result.stdout
        loaded[form] = load_by_card(tmp_path / form / "model", monkeypatch)
    start = AutoModelForImageTextToText.from_pretrained(finished.stage("merge") / "model", dtype=torch.float32)
    evaluated = PeftModel.from_pretrained(start, finished.stage("grpo") / "adapter").merge_and_unload().state_dict()
    for names in loaded.values():
        weights = names["model"].state_dict()
        assert weights.keys() == evaluated.keys()
        assert all(torch.equal(weights[name], evaluated[name]) for name in weights)
        limits = names["processor"].image_processor.size
        assert (limits["shortest_edge"], limits["longest_edge"]) == (3136, 9600)
