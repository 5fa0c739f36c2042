"""Prompts: the exact words are part of every result, so they change on purpose or not at all."""

import pytest

from migrl.grounding import prompts
from migrl.grounding.prompts import SUFFIXES, build_messages, hash_messages, hash_prompts


def test_a_message_reads_exactly_like_this():
    messages = build_messages("Locate the red circle.", 2, "think", "box")
    assert messages == [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Image 1:"},
                {"type": "image"},
                {"type": "text", "text": "Image 2:"},
                {"type": "image"},
                {
                    "type": "text",
                    "text": "\nLocate the red circle.\nThink inside <think></think>, then answer inside "
                    '<answer></answer> as {"image": number, "bbox_2d": [x1, y1, x2, y2]}.',
                },
            ],
        }
    ]


def test_a_bare_question_gets_no_form_of_answer():
    (message,) = build_messages("Describe image 1.", 1, None, "box")
    assert message["content"][-1]["text"] == "\nDescribe image 1."


def test_the_hash_of_a_sample_follows_question_images_style_and_kind():
    variants = [
        ("Locate it.", 2, "think", "box"),
        ("Locate it!", 2, "think", "box"),
        ("Locate it.", 3, "think", "box"),
        ("Locate it.", 2, "direct", "box"),
        ("Locate it.", 2, "think", "choice"),
    ]
    hashes = [hash_messages(build_messages(*variant)) for variant in variants]
    assert len(set(hashes)) == len(variants)
    assert hashes[0] == hash_messages(build_messages(*variants[0]))


@pytest.mark.parametrize("key", list(SUFFIXES), ids="/".join)
def test_the_hash_of_all_prompts_follows_every_text(key, monkeypatch):
    before, with_lists = hash_prompts(), hash_prompts(["boxes"])
    monkeypatch.setitem(prompts.SUFFIXES, key, SUFFIXES[key] + " Please.")
    assert (hash_prompts() == before) == (key[1] == "boxes")  # a list's texts count only where one is asked for
    assert hash_prompts(["boxes"]) != with_lists
