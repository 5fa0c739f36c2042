"""Records of the form that MGrounding-630k.json has."""

from typing import Any


def make_record(task: str, *turns: tuple[str, str], images: int = 4, folder: str = "s") -> dict[str, Any]:
    """A record of (question, answer) turns over so many pictures of a task."""
    names = [f"./MGrounding-630k/{task}/{folder}/{number}.jpg" for number in range(images)]
    values = [text for turn in turns for text in turn]
    values[0] = "<image>\n" * images + values[0]
    speakers = ("human", "gpt") * len(turns)
    said = [{"from": speaker, "value": value} for speaker, value in zip(speakers, values, strict=True)]
    return {"id": "1", "type": "x", "images": names, "conversations": said}
