"""Model card, data card and licence list, written from the evidence alone; what is not known is said to be unknown.

Everything that comes from data is escaped for Markdown unless it is marked as ours; report.md already is. Metadata is
what huggingface_hub writes and accepts.
"""

import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import jinja2
import yaml
from huggingface_hub import DatasetCard, DatasetCardData, EvalResult, ModelCard, ModelCardData
from markupsafe import Markup

from migrl.claims.claims import CLAIMS_FILE
from migrl.files import read_jsonl
from migrl.grounding.prompts import SUFFIXES
from migrl.publish.finished import FinishedRun
from migrl.publish.licences import UNKNOWN, list_licences, read_models, read_sources
from migrl.report.text import PAPER, name_arm, reveal

_HERE = Path(__file__).parent
LICENCE_FILE = CLAIMS_FILE.parents[1] / "LICENSE"
FINAL_ARM = "rl"
TAGS = ["migrl", "arxiv:2507.00748", "visual-grounding", "multi-image"]
SHOWN_SETTINGS = ("model", "source", "synthesize", "sft", "select", "sampling", "grpo", "evaluate")
FRAMES = {
    "unit": "fractions of the image, 0 to 1",
    "permille": "thousandths of the image, 0 to 1000",
    "original_px": "pixels of the image as it is stored",
    "resized_px": "pixels of the image after the processor's resizing within the pixel limits below",
}
_SPECIAL = (("\\", "\\\\"), ("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("\n", " "))


def write_model_card(run: FinishedRun, folder: Path, model_id: str, data_id: str, *, merged: bool) -> None:
    """Write README.md of the model repository."""
    model = run.settings["model"]
    whole = merged or run.settings["grpo"]["lora"] is None
    data = ModelCardData(
        license=read_models().get(model["path"], {}).get("tag", UNKNOWN),
        language="en",
        base_model=model["path"] if run.base_on_hub else None,
        base_model_relation=("finetune" if whole else "adapter") if run.base_on_hub else None,
        library_name="transformers" if whole else "peft",
        pipeline_tag="image-text-to-text",
        datasets=[data_id],
        tags=[*TAGS, "grpo", "lora"],
        model_name=model_id.partition("/")[2],
        eval_results=list_results(run) or None,
    )
    style = run.settings["evaluate"]["style"]
    report = (run.results / "report.md").read_text(encoding="utf-8")
    text = render(
        "model_card.md",
        run,
        model_id=model_id,
        data_id=data_id,
        whole=whole,
        full_training=run.settings["grpo"]["lora"] is None,
        on_hub=run.base_on_hub,
        report=Markup(re.sub(r"^#", "##", report, flags=re.MULTILINE)),
        final_arm=name_arm(FINAL_ARM),
        suffixes={kind: Markup(SUFFIXES[style, kind]) for kind in ("box", "choice")},
        frame=FRAMES[model["frame"]],
        dumped=Markup(yaml.safe_dump({key: run.settings[key] for key in SHOWN_SETTINGS}, sort_keys=False)),
    )
    ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}").save(folder / "README.md")


def write_data_card(run: FinishedRun, folder: Path, model_id: str, data_id: str) -> None:
    """Write README.md of the data set repository, after its files are there."""
    ours: dict[str, Any] = {"license": "apache-2.0"}
    several: dict[str, Any] = {"license": "other", "license_name": "several", "license_link": "LICENSE.md"}
    data = DatasetCardData(
        **(ours if run.is_rendered else several),
        language="en",
        pretty_name=f"{data_id.partition('/')[2]}: reasoning and RL samples for multi-image grounding",
        task_categories=["image-text-to-text"],
        tags=TAGS,
        configs=[{"config_name": name, "data_files": f"{name}.jsonl"} for name in ("cot", "rl")],
    )
    splits = {name: Counter(row["task"] for row in read_jsonl(folder / f"{name}.jsonl")) for name in ("cot", "rl")}
    text = render(
        "data_card.md",
        run,
        model_id=model_id,
        data_id=data_id,
        splits=splits,
        tasks=sorted(set(splits["cot"]) | set(splits["rl"])),
        filters=run.stages["synthesize"]["facts"],
        selection=run.stages["select"]["facts"],
        has_report=(folder / "evidence" / "report.html").is_file(),
    )
    DatasetCard(f"---\n{data.to_yaml()}\n---\n\n{text}").save(folder / "README.md")
    if not run.is_rendered:
        (folder / "LICENSE.md").write_text(render("licences.md", run), encoding="utf-8")


def copy_base_licence(run: FinishedRun, folder: Path) -> None:
    """Put the text of Apache-2.0 beside what is made of such a base, as it asks for: weights, tokenizer, template."""
    if read_models().get(run.settings["model"]["path"], {}).get("tag") == "apache-2.0":
        shutil.copyfile(LICENCE_FILE, folder / "LICENSE.txt")


def list_results(run: FinishedRun) -> list[EvalResult]:
    """The final arm's accuracies of scores.json, for the metadata's model-index."""
    sources = read_sources(run)
    results = []
    for benchmark, score in run.scores.get(FINAL_ARM, {}).items():
        repo = next((file.repo for file in sources[benchmark].files), None) if benchmark in sources else None
        results.append(
            EvalResult(
                task_type="image-text-to-text",
                dataset_type=repo or benchmark,
                dataset_name=benchmark,
                dataset_config=benchmark,
                dataset_revision=sources[benchmark].repos[repo].revision if repo else None,
                metric_type="accuracy",
                metric_name="macro accuracy, strict reading (%)",
                metric_value=score["macro"],
            )
        )
    return results


def render(template: str, run: FinishedRun, **values: Any) -> str:
    """A template with what every card says about its run; all values are escaped unless they are Markup."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE / "templates"),
        undefined=jinja2.StrictUndefined,
        finalize=escape_markdown,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )  # no autoescape: it is for HTML, and `finalize` escapes every value
    models, base = read_models(), run.settings["model"]["path"]
    return environment.get_template(template).render(
        paper=PAPER,
        recipe=run.recipe.name,
        rendered=run.is_rendered,
        revision=run.evidence["git_revision"],
        dirty=bool(run.evidence["dirty"]),
        settings=run.settings,
        base_licence=models.get(base, {}).get("licence", UNKNOWN),
        teacher=run.teacher,
        teacher_facts=models.get(run.teacher, {}),
        licences=list_licences(run),
        **values,
    )


def escape_markdown(value: Any) -> Any:
    """A value as Markdown text of one line: no markup, no table cell's end, no character that does not show."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    text = str(reveal(value))
    for char, safe in _SPECIAL:
        text = text.replace(char, safe)
    return "".join(f"\\{char}" if char in "|`[]*" else char for char in text)
