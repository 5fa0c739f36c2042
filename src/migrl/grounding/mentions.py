"""Which images a text speaks of: "image 2", "Images 1 and 3", "the second picture", "frames 2 to 4", `"image_id": 2`.

A number counts only where it names: not in "2 images", "image 640x480", or "this image two dogs".
"""

import re
from dataclasses import dataclass

_NTH_WORDS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
_COUNT_WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_VALUES = {word: value for words in (_NTH_WORDS, _COUNT_WORDS) for value, word in enumerate(words, 1)}
_NOUN = r"(?:image|picture|photo|frame|img)"
_NTH = rf"(?:{'|'.join(_NTH_WORDS)}|\d{{1,2}}(?:st|nd|rd|th)|last|final)"
_DIGITS = r"\d{1,3}(?!\w|\.\d|\s?%|\s?[x×]\s?\d\d|\s?(?:px|pixels?)\b|\s?by\s?\d)"
_WORD = rf"(?:{'|'.join(_COUNT_WORDS)})\b(?!\s(?:of|can|could|may|might|must|should|would|has|sees?|finds?)\b)"
_NUMBER = rf"#?\s?(?:{_DIGITS}|{_WORD})"
_MARK = r"\s?[-_]?\s?(?:(?:#|№|no\.?|number)\s?)?"
_SERIES = r"\s?,\s?(?:and\s|or\s)?|\s(?:and|or|to|through)\s|\s?[&–—~-]\s?"
_NAMED = re.compile(
    r"(?<![a-z0-9])(?:"
    # "the second to last image" counts from the end; "the first, second and third images" names three.
    rf"(?P<back>{_NTH})[\s-]to[\s-]last\s{_NOUN}"
    rf"|(?P<nth>{_NTH}(?:,?\s(?:(?:and|or|to|through)\s)?(?:the\s)?{_NTH}){{0,9}})\s{_NOUN}"
    # A key and its value: `"image_index": "2"`, `"img": "second"`, `image = 2`.
    rf"|{_NOUN}[\s_-]?(?:id|idx|index|no|num|number)?(?:[\"']?\s?[:=]|>)\s?[\"']?(?:the\s)?(?:{_NOUN}{_MARK})?"
    rf"(?:\[(?=\s?\d\s?\])\s?)?(?P<value>-?\d{{1,6}}(?:\.\d{{1,6}})?(?![\w.])|{_NTH}\b|{_WORD})"
    rf"|{_NOUN}s\s(?P<series>{_NUMBER}(?:(?:{_SERIES}){_NUMBER}){{1,9}})"
    rf"|{_NOUN}{_MARK}(?P<number>{_DIGITS}|[(\[]\s?\d{{1,3}}\s?[)\]])"
    rf"(?P<others>(?:\s(?:and|or|to|through)\s{_NUMBER}){{0,9}})"
    rf"|(?<!the )(?<!this )(?<!that )(?<!each )(?<!every ){_NOUN}[\s-](?P<word>{_WORD}))"
)
_PART = re.compile(rf"(?P<range>\b(?:to|through)\b|[–—~-])|\d{{1,3}}|\b(?:{'|'.join([*_VALUES, 'last', 'final'])})")


@dataclass(frozen=True)
class Mention:
    """Images named at `start:end` of a text; `is_key`: by a key with its value, as in JSON.

    A value that is no whole number names image 0, which no one has.
    """

    start: int
    end: int
    images: tuple[int, ...]
    is_key: bool = False


def find_images(text: str, *, count: int | None = None) -> set[int]:
    """Numbers of the images that a text names, keys of JSON aside; "the last" needs `count`, how many there are."""
    words = " ".join(text.lower().split())
    return {image for mention in find_mentions(words, count=count) if not mention.is_key for image in mention.images}


def find_mentions(text: str, *, count: int | None = None) -> list[Mention]:
    """Every mention in order, in a text in lower case with single spaces: patterns that ignore case are slow."""
    mentions = []
    for found in _NAMED.finditer(text):
        images: list[int | None]
        if found["value"]:
            images = [_read_value(found["value"], count)]
        elif found["back"]:
            place = _read_number(found["back"], count)
            images = [count + 1 - place if count and place else None]
        elif found["nth"]:
            # "The first to third images" names its ends only, as "the change from the first to the third image" does.
            images = [_read_number(part[0], count) for part in _PART.finditer(found["nth"]) if not part["range"]]
        else:
            images = [*_read_series(found["series"] or (found["number"] or found["word"]) + (found["others"] or ""))]
        if known := tuple(dict.fromkeys(image for image in images if image is not None)):
            mentions.append(Mention(found.start(), found.end(), known, is_key=bool(found["value"])))
    return mentions


def _read_series(text: str) -> list[int]:
    """ "1, 2 and 4" are three images, "2 to 4" and "2-4" are all from 2 to 4."""
    images: list[int] = []
    is_range = False
    for part in _PART.finditer(text):
        if not part["range"]:
            number = _VALUES.get(part[0]) or int(part[0])
            images += range(images[-1] + 1, number) if is_range and images else ()
            images.append(number)
        is_range = bool(part["range"])
    return images


def _read_value(text: str, count: int | None) -> int | None:
    if text[-1].isalpha():
        return _read_number(text, count)
    number = float(text)
    return int(number) if number == int(number) else 0


def _read_number(text: str, count: int | None) -> int | None:
    """A number in figures or in words; None for the last of an unknown count."""
    if text in ("last", "final"):
        return count
    return _VALUES.get(text) or int(text.rstrip("stndrh"))
