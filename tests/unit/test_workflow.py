"""The public CI runs what noxfile.py has, on the Pythons that it has."""

import ast
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
ALONE = {"image", "gpu"}  # half an hour as root; a machine with a GPU


def test_the_workflow_runs_every_session_on_both_pythons() -> None:
    tree = ast.parse((ROOT / "noxfile.py").read_text(encoding="utf-8"))
    sessions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.decorator_list}
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))["jobs"]
    matrix = jobs["session"]["strategy"]["matrix"]
    apart = jobs["files"]["steps"][-1]["run"].partition(" -s ")[2].split()
    assert matrix["python"] == ["3.11", "3.12"]
    assert {*matrix["session"], *apart} == sessions - ALONE
