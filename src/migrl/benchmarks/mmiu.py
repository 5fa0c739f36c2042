"""MMIU: 52 multi-image tasks as multiple choice, 2 to 32 images an item.

Source      Hub dataset FanqingM/MMIU-Benchmark (arXiv 2408.02718), `all.parquet`, split test, 11,698 rows; pictures in
            seven zips without a top folder, so each is unpacked into a folder named after it. A JSON list of the same
            records is read as well.
Version     one.
Licence     CC-BY-4.0 (card); pictures keep the terms of their sources.
Target      a letter A to N. Known defects are counted and named: rows without an answer (left out, as the official
            script does), letters that are not among the options, options that cannot be told apart.
Scorer      `evaluate.py`, `evaluate_correct.py`: one letter after stripping punctuation, else gpt-4o-mini as matcher;
            mean over tasks.
Different   no language-model judge: what is not one letter is a miss of the compat rule, and counted. Micro stands
            beside macro, because other harnesses print it. Tasks are those the file names, not a list.
Checked     the format against the copy of the annotations in the project's repository; no stored model outputs with
            letters were found, so the score itself is checked by the rule's tests only.
"""

import re
from pathlib import Path

from migrl.benchmarks.benchmark import Annotations, Benchmark, Item
from migrl.benchmarks.clusters import name_clusters
from migrl.benchmarks.fields import Record, open_record, read_json_list
from migrl.benchmarks.letter_parsers import MMIU_PARSERS
from migrl.benchmarks.parquet import list_parquet, read_rows
from migrl.grounding.samples import ChoiceTarget, Sample

KEYS = ("task", "options", "question", "context", "input_image_path", "output")
OPTIONAL = ("visual_input_component", "source")
COUNTS = {"test": 11_698}
MAX_OPTIONS = 14  # the official rule knows the letters a to n
_OPTION = re.compile(r"\s*([A-N])\s*[:.)]\s?(.*)")


def load_mmiu(annotations: Path, images: Path, name: str = "mmiu") -> Annotations:
    """Every row with an answer; uids are `<name>:<row>`. Images are not opened.

    Raises:
        UserError: a broken file or record, naming file, index and key.
    """
    if annotations.suffix == ".json":
        rows = read_json_list(annotations)
    else:
        columns: dict[str, str | None] = dict.fromkeys(KEYS)
        rows = [row for path in list_parquet(annotations, "*.parquet") for row in read_rows(path, columns)]
    records = [open_record(annotations, index, row, KEYS, OPTIONAL) for index, row in enumerate(rows)]
    image_sets = [record.paths("input_image_path") for record in records]
    items: list[Item] = []
    defects: dict[str, list[str]] = {}
    for record, paths, cluster in zip(records, image_sets, name_clusters(image_sets), strict=True):
        uid = f"{name}:{record.index}"
        task, choices = record.text("task"), split_options(record.text("options"))
        letter = _read_letter(record)
        if letter is None:
            defects.setdefault("no_answer", []).append(uid)
            continue
        options = len(choices)
        if not choices:
            defects.setdefault("options_unreadable", []).append(uid)
            options = MAX_OPTIONS
        elif ord(letter) - ord("A") >= options:
            defects.setdefault("letter_without_option", []).append(uid)
            options = ord(letter) - ord("A") + 1
        sample = Sample(uid, name, task, paths, build_question(record), ChoiceTarget(letter, options), cluster)
        items.append(Item(sample, choices=choices))
    return Annotations("test", tuple(items), {kind: tuple(uids) for kind, uids in sorted(defects.items())})


def split_options(options: str) -> tuple[str, ...]:
    """The texts of `A: ...\\nB: ...`; an option may run over several lines. Empty if no line opens with A."""
    choices: list[str] = []
    for line in options.split("\n"):
        match = _OPTION.fullmatch(line)
        if match and match[1] == chr(ord("A") + len(choices)):
            choices.append(match[2])
        elif choices:
            choices[-1] += f"\n{line}"
    return tuple(choice.strip() for choice in choices)


def build_question(record: Record) -> str:
    """Question, context and options, each once: some tasks repeat them, some hold a part in one key only."""
    question, context = record.text("question", empty=True).strip(), record.text("context", empty=True).strip()
    options = record.text("options").strip()
    parts = [question] if question and not context.startswith(question) else []
    parts += [context] if context else []
    if options not in context:
        parts.append(options)
    return "\n".join(parts)


def _read_letter(record: Record) -> str | None:
    value = record.data["output"]
    if value is None:
        return None
    letter = record.text("output").strip().upper()
    if len(letter) != 1 or not "A" <= letter <= "N":
        raise record.fail("output", f"{value!r} is no letter A to N")
    return letter


MMIU = Benchmark("mmiu", load_mmiu, MMIU_PARSERS, COUNTS)
