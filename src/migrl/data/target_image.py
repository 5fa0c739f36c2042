"""In which image a box lies, where only prose says so: rules that give one image or the reason why there is none.

An image counts as named by an ordinal or a number ("third image", "Image-3", "3th picture"); what stands in object-ref
tokens is the name of a thing, not of an image. A text places a box only if

- it names one image and no other, and none in words that are not read ("the other image", "frame 3", "image two");
- the image is not named in passing: by comparison or negation ("like the one in the first image", "not in image 2"),
  and in questions not as the place of what is shown there either ("the object marked in the first image", "The first
  image shows a dog", or any image where "the others" are spoken of).

These are lists of words, so they err on the side of dropping; a text in other words may still deceive them.
"""

import re

from migrl.grounding.mentions import find_images

BOX_END = "<|box_end|>"
REF_START, REF_END = "<|object_ref_start|>", "<|object_ref_end|>"
NOT_NAMED = "no image named"
MAX_CHARS = 20_000  # no answer, question or thought comes near it

_IMAGE = r"(?:image|picture|frame|photo)"
_COUNT = r"(?:one|two|three|four|five|six|seven|eight|nine|ten)"
_NOT_READ = re.compile(
    r"\b(?:last|final|latter|former|previous|preceding|next|other|another|middle|left|right|top|bottom|upper|lower"
    rf"|\w{{1,12}}-(?:first|second|third|fourth|fifth|sixth|seventh|eighth|ninth)) {_IMAGE}\b"
    rf"|\b{_IMAGE}s? ?-?(?:# ?|no\. ?|number |\( ?)(?:\d|{_COUNT}\b)"
    r"|\b(?:first|second|third|fourth|fifth|\d{1,2}(?:st|nd|rd|th)) one\b"
    rf"|\b(?:images|(?:picture|frame|photo)s?) ?-?\d|\b{_IMAGE}s?[ -]{_COUNT}\b"
    r"|\b(?:picture|photo|image) frame"  # a thing on a wall
)
_LETTERED = re.compile(r"\b(?i:image)[ -][A-H]\b")
_AFTER_QUOTE = re.compile(r"[\s,]*\b(?:in|of|from|within|on)\s+(?:the\s+)?\w{1,12}(?:\s+|-)\w{1,12}")
_EACH = re.compile(rf"\b(?:each|every|any|one|single) {_IMAGE}\b")  # names none, so nothing is said of one in passing
_NO_BOX = r"(?! (?:a|an|the) (?:bounding )?box\b)"
_COMPARED = (
    rf"(?<!would )(?<!'d )like|unlike|as(?! well\b){_NO_BOX}"
    r"|than|except|without|no|not|never|neither|nor|\w{1,8}n['’]t|missing|absent"
    r"|removed|disappear(?:s|ed)?|(?:similar|identical|equal|correspond(?:s|ing)?|compared?) (?:to|with)|match(?:es)?"
    r"|resembles?|from|(?:based|relies) on|relative to|according to|added to"
)
_MARKED = rf"|marked|boxed|highlighted|circled|outlined|given|refer(?:s|ring)? to|using{_NO_BOX}"
_SHOWN = r"|shown|seen|displayed|depicted|pictured|appear(?:s|ing)?"
_SHOWING = (
    r"|\b(?:(?<!each )others?|elsewhere|remaining|another|counterpart|among (?:these|the))\b"
    rf"|\b{_IMAGE}(?:[ -]?\d{{1,2}})? (?:shows|contains|has|depicts|displays|features|includes)\b"
)


def _compile_asides(words: str, more: str = "") -> re.Pattern[str]:
    """One of the words up to six words before an image, or a negation up to three words after it, or `more`."""
    between = r"(?: [\w'’-]{1,40}){0,6}?"
    denied = r"(?:-\d{1,2})?(?: [\w'’-]{1,40}){0,3}? (?:no|not|never|lacks?|without|misses|missing|\w{1,8}n['’]t"
    denied += r"|replaced|became|becomes|turned into|gone)\b"
    return re.compile(rf"\b(?:{words}){between} {_IMAGE}\b|\b{_IMAGE}\b{denied}{more}")


_ANSWER_ASIDES = _compile_asides(_COMPARED)
_TRACKING_ASIDES = _compile_asides(_COMPARED + _MARKED, _SHOWING)
_QUESTION_ASIDES = _compile_asides(_COMPARED + _MARKED + _SHOWN, _SHOWING)


def place_by_answer(answer: str) -> tuple[int | None, str]:
    """(image, "") that an answer places its box in, or (None, reason); the image may be out of range."""
    return _place(answer, _ANSWER_ASIDES)


def place_by_question(question: str, *, tracked: bool = False) -> tuple[int | None, str]:
    """(image, "") that a question, or a thought, asks for a box in, or (None, reason).

    Where a question quotes a box, which is one of the first image, only what follows can name another. What is
    `tracked` is given in the first image, so another one is where it may be seen.
    """
    opening, _, rest = split_quote(question)
    image, reason = _place(rest, _TRACKING_ASIDES if tracked else _QUESTION_ASIDES)
    return (None, "image named in passing") if image == 1 and (opening or tracked) else (image, reason)


def split_quote(question: str) -> tuple[str, str, str]:
    """(what leads up to the last quoted box, "in the first image" right behind it, the rest); no box: only a rest."""
    opening, _, rest = question.rpartition(BOX_END)
    place = _AFTER_QUOTE.match(rest) if opening else None
    return (opening, place[0], rest[place.end() :]) if place else (opening, "", rest)


def find_quoted_image(question: str) -> set[int]:
    """Images that a question may mean where it quotes a box; empty if it names none."""
    opening, place, _ = split_quote(question)
    told = find_images(place) or find_images(opening)
    return {0} if _is_not_read(place if find_images(place) else opening) else told


def _place(text: str, asides: re.Pattern[str]) -> tuple[int | None, str]:
    if len(text) > MAX_CHARS:
        return None, "text too long"
    words = " ".join(cut_references(text).split())
    named = find_images(words)
    if _is_not_read(words):
        return None, "image named in words not read"
    if len(named) != 1:
        return None, "several images named" if named else NOT_NAMED
    if asides.search(_EACH.sub("one", words.lower())):
        return None, "image named in passing"
    return named.pop(), ""


def _is_not_read(text: str) -> bool:
    # Patterns are three times as fast where case need not be ignored.
    return bool(_NOT_READ.search(text.lower()) or _LETTERED.search(text))


def cut_references(text: str) -> str:
    """A text without what stands in object-ref tokens."""
    first, *others = text.split(REF_START)
    return " ".join([first, *(other.partition(REF_END)[2] for other in others)])
