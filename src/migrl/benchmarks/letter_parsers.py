"""How completions become letters: the rules of the official scripts and of the two toolkits, and ours.

Where an official script would ask a language model to match the reply with an option, or draw a letter
at random, the reading here is `none`: a score must not depend on a judge or on luck. How often that
happens stands in the parse ledger.
"""

import re

from migrl.benchmarks.readings import ChoiceQuestion, LetterParser
from migrl.grounding.answers import Answer, parse_choice_answer

_PARAGRAPH = "\n\n"
_LEAD = re.compile(r"^[(\s]*+")
_MMIU_LETTERS = "abcdefghijklmn"
_MMIU_FAILURES = ("image none", "model error or image error", "image error", "model error", "")
_MMIU_EDGES = ".,()"
_VLMEVALKIT_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
_VLMEVALKIT_PUNCTUATION = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_VLMEVALKIT_PHRASE = re.compile(r"(?:correct\s+)?answer\s+is\s+\**([ABCD])\**", re.IGNORECASE)


def read_blink(completion: str, question: ChoiceQuestion) -> Answer:
    """BLINK's rule (`eval/test_benchmark.py`): a bare letter A to E, or exactly one `(L)` token; see the header.

    The last paragraph is preferred. Tokens are split at white space, so `(B).` is none. What is neither goes to
    the official script's language model, and is `none` here.
    """
    if completion in ("A", "B", "C", "D", "E", "(A)", "(B)", "(C)", "(D)", "(E)"):
        return Answer("ok", letter=completion.strip("()"))
    legal = {f"({letter})" for letter in question.letters[:5]}
    anywhere = legal.intersection(completion.split())
    at_the_end = legal.intersection(completion.rsplit(_PARAGRAPH, 1)[-1].split())
    found = at_the_end if len(at_the_end) == 1 else anywhere
    if len(found) != 1:
        return Answer("none")
    return Answer("ok" if len(anywhere) == 1 else "several", letter=found.pop().strip("()"))


def read_mmiu(completion: str, question: ChoiceQuestion) -> Answer:
    """MMIU's rule (`evaluate.py`): one letter a to n once `.,()` are stripped at both ends, else its judge."""
    text = completion.strip()
    if text in _MMIU_FAILURES:
        return Answer("none")
    letter = text.replace("\u00a0", "").strip().strip(_MMIU_EDGES).strip().lower()
    if len(letter) != 1 or letter not in _MMIU_LETTERS:
        return Answer("none")
    return Answer("ok", letter=letter.upper())


def read_muirbench(completion: str, question: ChoiceQuestion) -> Answer:
    """MuirBench's rule (MMMU's): `(L)` anywhere, else ` L `, else an option's text in replies over five words.

    Of several letters the one that stands last wins. Without any the official script draws a letter (seed 42).
    """
    for mark in ",.!?;:'":
        completion = completion.strip(mark)
    text = f" {completion} "
    marks = {letter: f"({letter})" for letter in question.letters if f"({letter})" in text}
    marks = marks or {letter: f" {letter} " for letter in question.letters if f" {letter} " in text}
    if not marks and len(completion.split()) > 5:
        text = text.lower()
        options = zip(question.letters, question.choices, strict=False)
        marks = {letter: choice.lower() for letter, choice in options if choice.lower() in text}
    if not marks:
        return Answer("none")
    last = max(marks, key=lambda letter: text.rfind(marks[letter]))
    return Answer("ok" if len(marks) == 1 else "several", letter=last)


def read_lmms_eval_blink(completion: str, question: ChoiceQuestion) -> Answer:
    """lmms-eval's first rule for BLINK (2024 to Aug 2026): the first letter of the reply, after brackets and spaces.

    "The answer is ..." reads as T and is a miss; a reply that opens with a tag has no letter.
    """
    letter = _find_first(completion)
    return _check_letter(letter, question) if "A" <= letter <= "Z" else Answer("none")


def read_lmms_eval_blink_0_7_3(completion: str, question: ChoiceQuestion) -> Answer:
    """lmms-eval 0.7.3's rule for BLINK: a bare letter, else "answer is L", the last `(L)`, or the first letter."""
    letters = f"([{question.letters}])"
    text = completion.strip()
    first_line = text.split("\n", 1)[0].strip()
    if len(first_line) <= 4 and (match := re.match(rf"^\(?{letters}\)?[.\s:,)]*$", first_line, re.IGNORECASE)):
        return Answer("ok", letter=match[1].upper())
    # Possessive quantifiers: the pattern as released needs quadratic time on long runs of white space.
    phrase = rf"answers?(?:\s++is)?\s*+[:\-]?\s*+\(?{letters}\)?(?![A-Za-z])"
    if found := re.findall(phrase, text, re.IGNORECASE) or re.findall(rf"\({letters}\)", text):
        return Answer("ok" if len(set(found)) == 1 else "several", letter=found[-1].upper())
    letter = _find_first(text)
    return Answer("repaired", letter=letter) if letter and letter in question.letters else Answer("none")


def read_lmms_eval_muirbench(completion: str, question: ChoiceQuestion) -> Answer:
    """lmms-eval's rule for MuirBench: a reply that starts with `L.`, or that is the letter alone in any case."""
    match = re.match(r"\s*([A-Z])\.", completion)
    letter = match[1] if match else completion.strip().upper()
    if len(letter) != 1 or letter not in question.letters:
        return Answer("none" if match is None else "out_of_range", letter=match[1] if match else None)
    return Answer("ok", letter=letter)


def read_vlmevalkit(completion: str, question: ChoiceQuestion) -> Answer:
    """VLMEvalKit's exact matching (`utils/matching_util.py`, 2026) without its language-model judge.

    A single option letter among the last four tokens; else the phrase "answer is L" for A to D (in any case and
    without a word boundary, as there); else a single option whose text is part of a short reply.
    """
    if "Failed to obtain answer via API" not in completion:
        if any(refusal in completion for refusal in _VLMEVALKIT_REFUSALS):
            return Answer("none")
        tokens = completion.translate(_VLMEVALKIT_PUNCTUATION).split()
        letters = [letter for letter in question.letters if letter in tokens]
        if len(letters) == 1 and tokens.index(letters[0]) >= len(tokens) - 4:
            return Answer("ok", letter=letters[0])
        if not letters and "Z" in tokens:
            return Answer("none")
        match = _VLMEVALKIT_PHRASE.search(completion)
        if match and match[1].upper() in question.letters:
            return Answer("repaired", letter=match[1].upper())
    if not question.choices or len(completion) > 2 * sum(map(len, question.choices)):
        return Answer("none")
    text = completion.lower()
    options = zip(question.letters, question.choices, strict=False)
    named = [letter for letter, choice in options if choice.lower() in text]
    return Answer("repaired", letter=named[0]) if len(named) == 1 else Answer("none")


def read_strict(completion: str, question: ChoiceQuestion) -> Answer:
    """Our rule: the letter in the last answer block."""
    return parse_choice_answer(completion, options=question.options)


def _find_first(text: str) -> str:
    """The first character after brackets and white space, in upper case; empty if it is not ASCII."""
    first = _LEAD.sub("", text.strip(), count=1)[:1]
    return first.upper() if first.isascii() else ""


def _check_letter(letter: str, question: ChoiceQuestion) -> Answer:
    return Answer("ok" if letter in question.letters else "out_of_range", letter=letter)


BLINK_PARSERS: dict[str, LetterParser] = {
    "compat": read_blink,
    "strict": read_strict,
    "lmms_eval": read_lmms_eval_blink,
    "lmms_eval_0_7_3": read_lmms_eval_blink_0_7_3,
    "vlmevalkit": read_vlmevalkit,
}
MMIU_PARSERS: dict[str, LetterParser] = {"compat": read_mmiu, "strict": read_strict, "vlmevalkit": read_vlmevalkit}
MUIRBENCH_PARSERS: dict[str, LetterParser] = {
    "compat": read_muirbench,
    "strict": read_strict,
    "lmms_eval": read_lmms_eval_muirbench,
    "vlmevalkit": read_vlmevalkit,
}
