"""Whether rows come from the settings that evaluations.json states: what it says is looked for in every row."""

from collections.abc import Sequence
from functools import cache

from migrl.errors import UserError
from migrl.evidence.evaluations import REMEDY, SERVER, Evaluation
from migrl.grounding.boxes import PIXEL_FACTOR
from migrl.grounding.images import fit_size
from migrl.grounding.prompts import PromptStyle, build_messages, hash_messages, hash_prompts, quote_boxes
from migrl.scoring.rows import EvaluationRow, name_arm


def check_rows_fit(evaluations: Sequence[Evaluation], rows: Sequence[EvaluationRow]) -> None:
    """Refuse rows that the evaluations do not describe; what they say is looked for in every row.

    Raises:
        UserError: another set of arms and seeds, or a row whose frame, resized sizes, length or prompt do not come
            from the stated settings. Prompts are compared where the evaluation used this version's texts.
    """
    described = {(entry["arm"], entry["seed"]): entry for entry in evaluations}
    answered = dict.fromkeys((row.arm, row.seed) for row in rows)
    for pair in sorted(described.keys() ^ answered.keys(), key=str):
        where = "samples but not in evaluations.json" if pair in answered else "evaluations.json but has no samples"
        raise UserError(f"{name_arm(*pair)}: is in the {where}; {REMEDY}")
    texts = hash_prompts(row.sample.kind for row in rows)
    known_prompts = {pair: entry["prompts"] == texts for pair, entry in described.items()}
    for row in rows:
        pair = (row.arm, row.seed)
        entry = described[pair]
        fault = _find_fault(entry, row, known_prompts[pair])
        if fault:
            raise UserError(f"{row.who}, sample {row.sample.uid!r}: {fault}, by evaluations.json; {REMEDY}")


def _find_fault(entry: Evaluation, row: EvaluationRow, known_prompts: bool) -> str:
    """What in a row does not come from an evaluation's settings, or an empty text."""
    served = entry["engine"] == SERVER
    if row.unanswered and not served:
        return f"key 'unanswered': only a server leaves anything so, and the engine is {entry['engine']!r}"
    if row.frame != entry["frame"]:
        return f"key 'frame' is {row.frame!r}, but {entry['frame']!r}"
    for size, resized in zip(row.sample.sizes, row.resized_sizes, strict=True):
        try:
            expected = _resize(*size, entry["min_pixels"], entry["max_pixels"], entry.get("pixel_factor", PIXEL_FACTOR))
        except ValueError as error:
            return f"key 'sizes': {error}"
        if resized != expected:
            limits = f"{entry['min_pixels']} to {entry['max_pixels']} pixels"
            found = f"{list(resized)} for an image of {list(size)}"
            return f"key 'resized_sizes' has {found}, but {limits} give {list(expected)}"
    limit = entry["max_new_tokens"]
    # A server counts as it likes, and may cut earlier.
    if not served and (row.tokens > limit or (row.truncated and row.tokens < limit)):
        cut = "cut at " if row.truncated else ""
        return f"key 'tokens' is {cut}{row.tokens}, but max_new_tokens {limit}"
    if known_prompts and row.prompt_hash != (expected_hash := _hash_prompt(entry["style"], row)):
        return f"key 'prompt_hash' is {row.prompt_hash!r}, but {expected_hash!r}"
    return ""


@cache
def _resize(width: int, height: int, min_pixels: int, max_pixels: int, factor: int) -> tuple[int, int]:
    return fit_size((width, height), min_pixels=min_pixels, max_pixels=max_pixels, factor=factor)


def _hash_prompt(style: PromptStyle, row: EvaluationRow) -> str:
    """The hash of the prompt that a row's question gives, by the same steps as an evaluation takes."""
    sample = row.sample
    sizes = {"original_size": sample.sizes[0], "resized_size": row.resized_sizes[0]}
    question = quote_boxes(sample.question, row.frame, **sizes)
    return hash_messages(build_messages(question, len(sample.images), style, sample.kind))
