"""Which images a text speaks of: "image 2", "Image-3", "the second picture", "the first and third images"."""

import re

_WORDS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
_NTH = rf"\b(?:{'|'.join(_WORDS)}|\d{{1,2}}(?:st|nd|rd|th))"
_NAMED = re.compile(
    # "the first, second and third images" names three of them.
    rf"(?P<nth>{_NTH}(?:,?\s+(?:(?:and|or|to|through)\s+)?(?:the\s+)?{_NTH}){{0,9}})\s+(?:image|picture|frame|photo)"
    r"|\bimage\s?-?\s?(?P<number>\d{1,2})\b(?:\s+(?:and|or)\s+(?P<other>\d{1,2})\b)?"
)
_NUMBER = re.compile(rf"({'|'.join(_WORDS)})|(\d{{1,2}})")


def find_images(text: str) -> set[int]:
    """Numbers of the images that a text names by ordinals or as "Image-3"."""
    numbers = set()
    for found in _NAMED.finditer(text.lower()):  # patterns that ignore case are three times slower
        for word, digits in _NUMBER.findall(" ".join(part for part in found.groups() if part)):
            numbers.add(_WORDS.index(word) + 1 if word else int(digits))
    return numbers
