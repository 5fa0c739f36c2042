"""The letter that an answer chooses. Other letters may stand beside it: an article, an image's name, another option.

The first of these that leads to a letter decides; where it leads to two, the answer is ambiguous:

1. what is said to be the answer: "the answer is B", "B is right", "so B", `\\boxed{B}`; after "no, wait" the last
2. what stands first, where the others are only spoken of: "B. A dog", "(B), since (A) is farther"
3. the only letter, or the only one in brackets

Letters that are denied ("not A", "A is wrong") count for nothing, and those that name a thing ("image A") only alone.
"""

import re
from dataclasses import dataclass

from migrl.grounding.answer_text import Answer, Passage, read_completion, simplify

_FILLERS = (
    r"(?:(?:is|are|would|should|must|will|be|has|to|seems|appears|likely|most|probably|clearly|definitely|therefore|thus"
    r"|then|hence|simply|just|the|my|correct|right|best|final|option|choice|letter|answer|number|one|here|it|this|that)\b"
    r"[ :=,-]*+)*+"
)
_CUE = re.compile(
    r"(?:\b(?:answers?|choice|letter|conclusion|solution|prediction|result)\b(?: (?:to|for) (?:the|this) question)?"
    r"|\b(?:correct|right|best|final) (?:option|choice|letter|one)\b"
    r"|\b(?:so|therefore|thus|hence|actually|choose|chose|pick|picked|select|selected|go(?:ing)? with|opt for)\b"
    r"|\b(?:would|will|must|i'd|i'll) say\b|\b(?:it|that)(?: is|'s)\b|[-=]+>|\u2192|\\boxed)[ :=,-]*+" + _FILLERS,
    re.I,
)
_LEAD = re.compile(r"[ \-#>:.]*+" + _FILLERS, re.I)
_SAID_RIGHT = re.compile(
    r"[ ,]*(?:is|are|seems|looks|would be|must be)(?: clearly| definitely| most likely)? "
    r"(?:(?:the|my) )?(?:correct|right|true|answer|best|one|final)\b(?! (?:than|side|of)\b)"
)
_DENIED_BEFORE = re.compile(
    r"(?:\b(?:not|never|nor|neither|than|instead of|rather than|unlike|except|exclud(?:e|ed|ing)"
    r"|eliminat(?:e|ed|ing)|rul(?:e|ed|ing) out)|n't(?: be)?)"
    r"(?: (?:the|options?|choice|answer|letter|images?|point|be|either|\(?[A-Z]\)? (?:or|nor|and)))*+ ?",
    re.I,
)
_DENIED_AFTER = re.compile(
    # With a verb only: "(B) no" is option B with its text.
    r" (?:(?:is|are|was|were|would be|can be)(?: not|n't)|(?:does|do|can|could|would)(?: not|n't)|cannot"
    r"|(?:is|are|was|were|seems|looks) (?:(?:clearly|also|therefore|both|all) )*"
    r"(?:wrong|incorrect|false|out|ruled out|eliminated|excluded|a distractor))\b",
    re.I,
)
_CHANGED_MIND = re.compile(r"\b(?:no|wait|actually|correction|sorry|instead|rather|final(?:ly)?)\b", re.I)
_NAMED_THING = re.compile(
    r"\b(?:images?|pictures?|photos?|frames?|points?|figures?|panels?|views?|objects?|persons?|box(?:es)?|regions?"
    r"|scenes?|videos?|labels?|vitamin|plan|grade|type|class|between|among) ",
    re.I,
)
_MENTIONED_AFTER = (
    "is|are|was|were|has|have|had|and|or|but|because|since|as|so|nor|not|rather|instead|than|over|from|with|in|on|at"
    "|which|that|for|to|if|due|would|should|could|must|may|might|can|will|does|do|seems|looks|appears|shows|matches"
    "|contains|fits|best|vs|versus|then|being|based|when|while|where|who|by"
)
_CLAUSE = re.compile(rf",? (?:{_MENTIONED_AFTER})\b")
_AFTER_WORD = re.compile(
    r"\b(?:since|because|than|as|while|whereas|but|and|or|though|although|unlike|like|with|from|to|of|in|that|if|option"
    r"|options|choice|between|both|for|by|on|is|are|was|not|over|does|do|has) $"
)
_LETTER = re.compile(
    r"(?<![A-Za-z])[(\[{<] ?(?P<boxed>[A-Za-z]) ?[)\]}>]"
    r"|(?<![A-Za-z0-9_À-ɏ'.])(?<![A-Za-z0-9]-)(?P<bare>[A-Za-z])(?![A-Za-z0-9_À-ɏ'&]|-[A-Za-z0-9]|\.[A-Za-z]\.)"
)
_AND = re.compile(
    r"[).?]? ?[,;/&(]? ?(?:and/or|and|or|vs\.?|then|either|/|&) ?(?:maybe |perhaps |possibly )?(?:the )?"
    r"(?:option |image |point )?",
    re.I,
)
_COMMA = re.compile(r"\)?(?: ?[,;/&|] ?| )?(?:maybe |perhaps |possibly )?(?:option |image |point )?")
_STOP = re.compile(r"[ .:)]*")


@dataclass(frozen=True)
class _Letter:
    """A letter that stands alone, at `start:end` of the text with its brackets."""

    name: str
    start: int
    end: int
    is_boxed: bool
    is_cued: bool
    is_thing: bool


def parse_choice_answer(completion: str, *, options: int, truncated: bool = False, tagged: bool = True) -> Answer:
    """Read the chosen letter.

    Two letters of which none is singled out ("A or B") are no answer: status "several", no letter, a miss. Several
    answer blocks, the last of which has one letter, are "several" too, and are read.

    Args:
        completion: raw text of the model.
        options: how many letters are legal, from A.
        truncated: whether the text stopped at the token limit; an open answer block is then not read.
        tagged: False reads the whole reply by the same rule where no answer block holds an answer; then never "ok".
    """
    return read_completion(completion, lambda passage: _read(passage, options), truncated=truncated, tagged=tagged)


def _read(passage: Passage, options: int) -> Answer:
    text = _drop_quotes(simplify(passage.text))
    letters = _find_letters(text)
    if not letters:
        return Answer("malformed")
    letter = _choose(letters, text)
    if letter is None:
        return Answer("several")
    if ord(letter) - ord("A") >= options:
        return Answer("out_of_range", letter=letter)
    is_exact = re.fullmatch(r"\([A-Z]\)", passage.text.strip()) is not None
    return Answer(passage.grade(is_exact=is_exact), letter=letter)


def _drop_quotes(text: str) -> str:
    text = re.sub(r"\\(?:text|mathrm|mathbf|textbf) ?(?=\{)", "", text.replace("\u2019", "'").replace("\u2018", "'"))
    return re.sub(r"[*`$\"\u201c\u201d]|(?<![A-Za-z])'|'(?![A-Za-z])", "", text).strip()


def _find_letters(text: str) -> list[_Letter]:
    """Every letter that stands alone and may be an option, those that are denied left out."""
    # One pass each, and then a look at places: a search before every letter would take a while on hostile text.
    cues = {found.end() for found in _CUE.finditer(text)}
    things = {found.end() for found in _NAMED_THING.finditer(text)}
    denied = {place for found in _DENIED_BEFORE.finditer(text) for place in range(found.start(), found.end() + 1)}
    lead = _find_lead(text)
    found: list[_Letter] = []
    for match in _LETTER.finditer(text):
        name, (start, end) = match["boxed"] or match["bare"], match.span()
        is_cued = start in cues or _SAID_RIGHT.match(text, end) is not None
        if match["bare"] and not _is_option(name, text, start, end, is_first=is_cued or start in lead):
            continue
        if start in denied or _DENIED_AFTER.match(text, end):
            continue
        # "images A and B" names two things.
        goes_on = bool(found) and found[-1].is_thing and _AND.fullmatch(text, found[-1].end, start) is not None
        found.append(_Letter(name.upper(), start, end, match["boxed"] is not None, is_cued, start in things or goes_on))
    return [letter for letter in found if not letter.is_thing] or found


def _find_lead(text: str) -> tuple[int, int]:
    """Where a letter stands that comes first, at once or behind words such as "the answer"."""
    lead = _LEAD.match(text)
    return 0, lead.end() if lead else 0


def _is_option(name: str, text: str, start: int, end: int, *, is_first: bool) -> bool:
    """Whether a letter without brackets is no word: not the article A, not the pronoun I, not a lower-case word."""
    following = text[end : end + 2]
    is_stop = following == "" or following[0] in ".):"
    if name.islower():
        return (
            (following[:1] == ")" and text[start - 1 : start] == " ")
            or is_first
            and (is_stop or (name not in "ai" and not following[1:].isupper()))
        )
    if name == "I":
        return is_stop and (is_first or following != "")
    if name == "A" and re.match(r" [A-Za-z0-9]", following):
        return _CLAUSE.match(text, end) is not None or re.match(r" [B-Z](?![A-Za-z'])", text[end : end + 3]) is not None
    return True


def _choose(letters: list[_Letter], text: str) -> str | None:
    """The letter that is singled out; None if none is."""
    groups = _join(letters, text)
    cued = [group for group in groups if any(letter.is_cued for letter in group)]
    if cued:
        names = {letter.name for group in cued for letter in group}
        last = {letter.name for letter in cued[-1]}
        changed = len(cued) > 1 and _CHANGED_MIND.search(text, cued[-2][-1].end, cued[-1][0].start)
        return _only(last if changed else names)
    first, others = groups[0], [letter for group in groups[1:] for letter in group]
    if first[0].start in _find_lead(text) and all(_is_mentioned(letter, text) for letter in others):
        return _only({letter.name for letter in first})
    return _only({letter.name for letter in letters}) or _only({letter.name for letter in letters if letter.is_boxed})


def _only(names: set[str]) -> str | None:
    return next(iter(names)) if len(names) == 1 else None


def _join(letters: list[_Letter], text: str) -> list[list[_Letter]]:
    """Letters in groups of those named in one breath: "A or B", "A, B", "(A) (B)"."""
    groups = [letters[:1]]
    for before, after in zip(letters, letters[1:], strict=False):
        between = text[before.end : after.start]
        is_list = _COMMA.fullmatch(between) and not _is_clause(after, text)
        is_last = _STOP.fullmatch(between) and _STOP.fullmatch(text, after.end)
        if _AND.fullmatch(between) or is_list or is_last:
            groups[-1].append(after)
        else:
            groups.append([after])
    return groups


def _is_clause(letter: _Letter, text: str) -> bool:
    return _CLAUSE.match(text, letter.end) is not None and not re.match(r" (?:and|or)\b", text[letter.end :])


def _is_mentioned(letter: _Letter, text: str) -> bool:
    """Whether a letter is spoken of within a sentence, and does not open an item of a list."""
    before = text[max(0, letter.start - 20) : letter.start]
    if _AFTER_WORD.search(before) or _CLAUSE.match(text, letter.end):
        return True
    return not letter.is_boxed and re.search(r"[A-Za-z] $", before) is not None
