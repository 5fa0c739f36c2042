"""Model card, data card and licence list, written from the evidence alone; what is not known is said to be unknown.

Everything that comes from data is escaped for Markdown unless it is marked as ours. Metadata is what
huggingface_hub accepts, and the finished card is read back by it.
"""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import DatasetCard, DatasetCardData, ModelCard, ModelCardData
from markupsafe import Markup

from migrl.claims.claims import CLAIMS_FILE
from migrl.files import read_jsonl
from migrl.grounding.prompts import SUFFIXES
from migrl.publish.facts import (
    FINAL_ARM,
    UNKNOWN,
    compare_settings,
    describe_reasoning,
    list_licences,
    list_limits,
    list_results,
    list_times,
    name_teacher,
    read_facts,
)
from migrl.publish.finished import FinishedRun
from migrl.report.scores import list_score_lines
from migrl.report.text import (
    BADGES,
    PAPER,
    flatten,
    name_arm,
    order_arms,
    reveal,
    show_interval,
    show_percent,
    show_points,
)

_HERE = Path(__file__).parent
LICENCE_FILE = CLAIMS_FILE.parents[1] / "LICENSE"
FRAMES = {
    "unit": "fractions of the image, 0 to 1",
    "permille": "thousandths of the image, 0 to 1000",
    "original_px": "pixels of the image as it is stored",
    "resized_px": "pixels of the image after the processor's resizing within the pixel limits below",
}
_SPECIAL = (("\\", "\\\\"), ("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("\n", " "))


def write_model_card(run: FinishedRun, folder: Path, model_id: str, data_id: str, *, merged: bool) -> None:
    """Write README.md of the model repository."""
    facts = read_facts()
    model, teacher = run.settings["model"], name_teacher(run.settings)
    whole = merged or run.settings["grpo"]["lora"] is None
    base = facts["models"].get(model["path"], {})
    name = model_id.partition("/")[2]
    data = ModelCardData(
        license=base.get("tag", UNKNOWN),
        language="en",
        base_model=model["path"] if run.base_on_hub else None,
        base_model_relation=("finetune" if whole else "adapter") if run.base_on_hub else None,
        library_name="transformers" if whole else "peft",
        pipeline_tag="image-text-to-text",
        datasets=[data_id],
        tags=["migrl", "arxiv:2507.00748", "visual-grounding", "multi-image", "grpo", "lora"],
        model_name=name,
        eval_results=list_results(run) or None,
    )
    text = render(
        "model_card.md",
        run,
        model_id=model_id,
        data_id=data_id,
        whole=whole,
        full_training=run.settings["grpo"]["lora"] is None,
        on_hub=run.base_on_hub,
        base=model["path"],
        base_revision=model["revision"],
        base_licence=base.get("licence", UNKNOWN),
        teacher=teacher,
        teacher_facts=facts["models"].get(teacher, {}),
        suffixes={kind: Markup(SUFFIXES[run.settings["evaluate"]["style"], kind]) for kind in ("box", "choice")},
        frame=FRAMES[model["frame"]],
        settings=compare_settings(run.settings, facts["settings"]),
        lines=list_score_lines(run.scores, order_arms(run.scores)),
        limits=list_limits(run),
    )
    write_card(folder / "README.md", data, text, ModelCard)


def write_data_card(run: FinishedRun, folder: Path, model_id: str, data_id: str) -> None:
    """Write README.md of the data set repository, after its files are there."""
    ours: dict[str, Any] = {"license": "apache-2.0"}
    several: dict[str, Any] = {"license": "other", "license_name": "several", "license_link": "LICENSE.md"}
    data = DatasetCardData(
        **(ours if run.is_rendered else several),
        language="en",
        pretty_name=f"{data_id.partition('/')[2]}: reasoning and RL samples for multi-image grounding",
        task_categories=["image-text-to-text"],
        tags=["migrl", "arxiv:2507.00748", "visual-grounding", "multi-image"],
        configs=[{"config_name": name, "data_files": f"{name}.jsonl"} for name in ("cot", "rl")],
    )
    teacher = name_teacher(run.settings)
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
        licences=list_licences(run),
        teacher=teacher,
        teacher_facts=read_facts()["models"].get(teacher, {}),
        has_report=(folder / "evidence" / "report.html").is_file(),
    )
    write_card(folder / "README.md", data, text, DatasetCard)


def write_licences(run: FinishedRun, folder: Path) -> None:
    """Write LICENSE.md, which the metadata points to, where the lines come from several publishers."""
    if not run.is_rendered:
        text = render("licences.md", run, licences=list_licences(run))
        (folder / "LICENSE.md").write_text(text, encoding="utf-8")


def copy_base_licence(run: FinishedRun, folder: Path) -> None:
    """Put the text of Apache-2.0 beside what is made of such a base, as it asks for: weights, tokenizer, template."""
    if read_facts()["models"].get(run.settings["model"]["path"], {}).get("tag") == "apache-2.0":
        shutil.copyfile(LICENCE_FILE, folder / "LICENSE.txt")


def write_card(path: Path, data: Any, text: str, kind: type[ModelCard | DatasetCard]) -> None:
    """Write a card, `data` as its metadata, and read it back as the Hub's own library does."""
    path.write_text(f"---\n{data.to_yaml()}\n---\n\n{text}", encoding="utf-8", newline="\n")
    found, meant = kind.load(path).data.to_yaml(), data.to_yaml()
    if found != meant:
        raise ValueError(f"{path}: the metadata reads back as {found}")


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
    environment.filters |= {
        "points": show_points,
        "percent": show_percent,
        "arm": name_arm,
        "measured": show_measured,
        "percent_interval": lambda record: show_interval(record, show_percent),
    }
    return environment.get_template(template).render(
        paper=PAPER,
        recipe=run.recipe.name,
        rendered=run.is_rendered,
        revision=run.evidence["git_revision"],
        dirty=bool(run.evidence["dirty"]),
        claims=run.claims,
        badges=BADGES,
        final_arm=FINAL_ARM,
        settings_all=run.settings,
        reasoning=describe_reasoning(run),
        times=list_times(run),
        machine=[(name.removeprefix("versions."), value) for name, value in flatten(run.evidence["machine"])],
        **values,
    )


def show_measured(claim: dict[str, Any]) -> str:
    """A claim's measured difference with its interval, or that it was not run."""
    if claim["delta"] is None:
        return str(claim["verdict"])
    return f"{show_points(claim['delta'])} {show_interval(claim, show_points)}"


def escape_markdown(value: Any) -> Any:
    """A value as Markdown text of one line: no markup, no table cell's end, no character that does not show."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    text = str(reveal(value))
    for char, safe in _SPECIAL:
        text = text.replace(char, safe)
    return "".join(f"\\{char}" if char in "|`[]*" else char for char in text)
