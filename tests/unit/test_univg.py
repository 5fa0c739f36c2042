"""UniVG-R1's stages: every turn becomes a sound sample or is counted, and the released reasoning meets the filters."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migrl.data import univg
from migrl.data.json_stream import Tally
from migrl.data.mgrounding import TASKS
from migrl.data.pool import PoolSizes
from migrl.data.training_pool import refuse_empty
from migrl.data.univg import Drop, Item, read_stage
from migrl.data.univg_samples import choose_stages
from migrl.errors import UserError
from migrl.files import write_jsonl
from migrl.grounding.prompts import build_messages
from migrl.grounding.samples import BoxTarget, Sample, read_samples
from migrl.models.inputs import ModelInput
from migrl.recipe import SINGLE_IMAGE, ScriptedTeacher, load_recipe
from migrl.synthesis.filters import judge_completion
from migrl.synthesis.teachers.scripted import write_replies

RECIPES = Path(__file__).resolve().parents[2] / "reproduce/recipes"
BOX = (100, 200, 300, 400)
COCO = "/data/x/dataset/coco/train2014/COCO_train2014_000000000009.jpg"
THOUGHT = "Image 1 shows a dog. Image 2 shows the same dog, on the left."


def name_images(task: str, folder: str = "s", count: int = 3) -> list[str]:
    return [f"/some/where/MGrounding-630k/{task}/{folder}/{number}.jpg" for number in range(count)]


def make_rl(task: str = "Free-Form", question: str = "Find it in the second image.", **changes: Any) -> dict[str, Any]:
    images = changes.get("images", name_images(task))
    return {"question": "<image>" * len(images) + question, "answer": list(BOX), "images": images, **changes}


def make_cot(
    task: str = "Free-Form",
    question: str = "Find it.",
    thought: str = THOUGHT,
    answer: str = "(100,200),(300,400)",
    *,
    chat: bool = False,
    images: list[str] | None = None,
) -> dict[str, Any]:
    images = images or name_images(task)
    key, speaker, text, names = (
        ("messages", "role", "content", ("user", "assistant"))
        if chat
        else ("conversations", "from", "value", ("human", "gpt"))
    )
    said = ("<image>\n" * len(images) + question, f"<think>{thought}</think>\n<answer>{answer}</answer>")
    return {"images": images, key: [{speaker: n, text: t} for n, t in zip(names, said, strict=True)]}


def make_pool(task: str, answer: str, folder: str = "s") -> dict[str, Any]:
    images = [name.replace("/some/where", ".") for name in name_images(task, folder)]
    said = (("human", "<image>\n" * 3 + "Where?"), ("gpt", f"{answer} <|box_start|>(100,200),(300,400)<|box_end|>"))
    return {"images": images, "conversations": [{"from": name, "value": text} for name, text in said]}


def choose(
    folder: Path,
    cot: list[Any],
    rl: list[Any],
    pool: list[Any] | None = None,
    *,
    tasks: tuple[str, ...] = TASKS,
    forbidden: tuple[str, ...] = (),
) -> tuple[dict[Any, list[Sample]], dict[str, Any]]:
    for name, records in (("stage1_cotsft", cot), ("stage2_rl", rl), ("pool", pool or [])):
        (folder / f"{name}.json").write_text(json.dumps(records))
    return choose_stages(folder, folder / "pool.json", PoolSizes(50, 50, 0, tasks), forbidden)


@pytest.mark.parametrize("chat", [False, True])
def test_both_stages_become_samples_with_their_box_in_the_right_picture(tmp_path: Path, chat: bool) -> None:
    cot = [make_cot("Referring_Grounding", chat=chat)]
    chosen, facts = choose(tmp_path, cot, [make_rl("Region_Locating", "Where is it?")])
    (first,), (second,) = chosen["cot"], chosen["rl"]
    assert (first.target, second.target) == tuple(BoxTarget(n, (0.1, 0.2, 0.3, 0.4)) for n in (2, 1))
    assert (first.question, first.facts, first.uid) == ("Find it.", THOUGHT, "univg:cot:0:0")
    assert (second.question, second.facts, second.uid) == ("Where is it?", "", "univg:rl:0:0")
    assert first.images[2] == "mgrounding/Referring_Grounding/s/2.jpg"
    assert facts["cot"]["dropped"] == facts["rl"]["dropped"] == {}
    assert facts["cot"]["other_instruction"] == 0


@pytest.mark.parametrize(
    ("record", "pool", "image", "how"),
    [
        (make_rl(question="Find it in the second image."), [], 2, "question"),
        (make_rl(question="Which one is like the first image?"), [make_pool("Free-Form", "Third image:")], 3, "pool"),
        (make_rl(question="Which one?"), [make_pool("Free-Form", "Third image:", "other")], None, "no image named"),
        (
            make_rl(question="Which one?"),
            [make_pool("Free-Form", "Third image:"), make_pool("Free-Form", "In Image-1:")],
            None,
            "no image named",
        ),
        (make_rl(question="Like the first image, in the second image."), [], None, "several images named"),
        (make_rl(question="Find it in the fifth image."), [], None, "image out of range"),
        (make_rl(question="Which one is like the first image?"), [], None, "image named in passing"),
        (make_rl(question="Find the dog marked in the first image."), [], None, "image named in passing"),
        (make_cot(thought="Image 1 shows a dog; the other image shows it sitting."), [], None, "image named in words"),
        (make_cot(thought="It is in the third image."), [], 3, "thought"),
        (make_cot(thought="Image 1 is like Image 2."), [], None, "several images named"),
        (make_rl(question="Image 1 " * 100_000), [], None, "text too long"),
        (
            make_cot(question="Not the first image, nor the second image?", thought="Image 3 has it."),
            [],
            None,
            "several",
        ),
    ],
)
def test_the_target_image_is_what_the_pool_the_question_or_the_thought_says_and_never_a_guess(
    tmp_path: Path, record: dict[str, Any], pool: list[Any], image: int | None, how: str
) -> None:
    split = "rl" if "question" in record else "cot"
    files: dict[str, list[Any]] = {"cot": [], "rl": [], split: [record]}
    chosen, facts = choose(tmp_path, files["cot"], files["rl"], pool)
    assert [sample.target.image for sample in chosen[split]] == ([image] if image else [])  # type: ignore[union-attr]
    told = facts[split]["target_known_from"] if image else facts[split]["dropped"]["Free-Form"]
    (reason,) = told
    assert reason.startswith(how.replace("pool", "MGrounding-630k")) and told[reason] == 1


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (make_cot(answer=""), "no box"),
        (make_cot(answer="(1,2),(3,4) or (5,6),(7,8)"), "several boxes"),
        (make_cot(answer="(300,200),(100,400)"), "broken box"),
        (make_cot(answer="(0.1,0.2),(0.3,0.4)"), "box of 0 to 1"),
        (make_cot(thought=" "), "no thought"),
        (make_cot(thought="Hm.</think><think>Well."), "no think and answer block"),
        (make_cot(thought="Look at <|image_pad|>."), "template token in the thought"),
        (make_cot(thought="It is at (100,200),(300,400) in image 2."), "coordinates in the thought"),
        (make_cot(thought="It spans [12, 30, 80, 90]."), "coordinates in the thought"),
        (make_cot(thought="From 100, 200 it goes to 300 and 400."), "coordinates in the thought"),
        (make_cot(thought="It starts at x1 = 317 and ends lower."), "coordinates in the thought"),
        (make_cot(thought="The box is 12, 30, 80, 90."), "coordinates in the thought"),
        (make_cot(question="This <image> is one.", images=name_images("Free-Form")[:2]), "error"),
        (make_cot(question=""), "no question"),
        (make_cot(images=["/x/y.jpg"]), "picture of no known data set"),
        (make_cot(images=[COCO, COCO]), "several pictures of COCO"),
        (make_cot(images=[COCO, *name_images("Free-Form")]), "pictures of several tasks"),
        (make_rl(answer=[100, 200, 300, 1001]), "broken box"),
        (make_rl(answer=[-1, 200, 300, 400]), "broken box"),
        (make_rl(answer=[float("nan"), 0, 1, 2]), "broken box"),
        (make_rl(question="This <image> is one."), "images and image marks differ in number"),
        (
            {**make_rl(), "question": "See <image>, <image> and <image>: find it in the second image."},
            "image inside the question",
        ),
    ],
)
def test_what_cannot_be_used_is_dropped_with_a_reason(tmp_path: Path, record: dict[str, Any], reason: str) -> None:
    split = "rl" if "question" in record else "cot"
    (tmp_path / "s.json").write_text(json.dumps([record]))
    if reason == "error":
        with pytest.raises(UserError, match=r"s\.json, record 0: key 'conversations': 3 image placeholders for 2"):
            list(read_stage(tmp_path / "s.json", split, Tally()))  # type: ignore[arg-type]
        return
    (drop,) = read_stage(tmp_path / "s.json", split, Tally())  # type: ignore[arg-type]
    assert isinstance(drop, Drop) and drop.reason == reason


def test_numbers_that_are_no_coordinates_stay_in_a_thought(tmp_path: Path) -> None:
    thought = (
        "Images 1, 2, 3 and 4 (in 2024): 12 dogs, 3 cats (1); the 1,000 leaves at 10:30, 2x as many. Image 2 it is."
    )
    (tmp_path / "s.json").write_text(json.dumps([make_cot(thought=thought)]))
    (item,) = read_stage(tmp_path / "s.json", "cot", Tally())
    assert isinstance(item, Item) and item.thought == thought


@pytest.mark.parametrize(
    ("record", "key"),
    [
        ({**make_rl(), "answer": "(1,2),(3,4)"}, "answer"),
        ({**make_rl(), "answer": [1, 2, 3, True]}, "answer"),
        ({**make_rl(), "images": "a.jpg"}, "images"),
        ({**make_rl(), "images": ["MGrounding-630k/Free-Form/../../x"]}, "images"),
        ({"images": ["a"], "question": "x"}, "answer"),
        ({"images": ["a"]}, "conversations"),
        ({**make_cot(), **make_cot(chat=True)}, "conversations"),
    ],
)
def test_a_record_of_another_form_is_an_error_with_file_record_and_key(
    tmp_path: Path, record: dict[str, Any], key: str
) -> None:
    (tmp_path / "s.json").write_text(json.dumps([record]))
    with pytest.raises(UserError, match=rf"s\.json, record 0: key '{key}': "):
        list(read_stage(tmp_path / "s.json", "rl" if "question" in record else "cot", Tally()))


def test_single_pictures_are_taken_only_where_they_are_wanted(tmp_path: Path) -> None:
    rl = [make_rl(question="Find the left dog.", images=[COCO]), make_rl()]
    chosen, facts = choose(tmp_path, [make_cot(thought="The third image.")], rl)
    assert facts["rl"]["dropped"] == {SINGLE_IMAGE: {"task not wanted": 1}} and len(chosen["rl"]) == 1
    chosen, facts = choose(tmp_path, [], rl, tasks=(*TASKS, SINGLE_IMAGE))
    assert chosen["rl"][0].images == ("coco/COCO_train2014_000000000009.jpg",)
    assert chosen["rl"][0].target == BoxTarget(1, (0.1, 0.2, 0.3, 0.4))


def test_nothing_is_trained_on_a_picture_that_a_benchmark_shows(tmp_path: Path) -> None:
    shown = COCO.rpartition("/")[2].removesuffix(".jpg")
    rl = [make_rl(images=[COCO]), make_rl()]
    chosen, facts = choose(tmp_path, [], rl, tasks=(*TASKS, SINGLE_IMAGE), forbidden=(shown,))
    assert facts["rl"]["dropped"] == {SINGLE_IMAGE: {"picture of a benchmark": 1}} and len(chosen["rl"]) == 1


def test_a_split_without_samples_stops_before_the_pictures_are_fetched(tmp_path: Path) -> None:
    chosen, facts = choose(tmp_path, [make_cot(answer="none")], [make_rl()])
    with pytest.raises(UserError, match=r"no sample for cot; .*'Free-Form': \{'no box': 1\}"):
        refuse_empty(chosen, facts)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "cot_per_task={Difference: 3}",
            r"'source.training': cot_per_task: give one count for each of Difference, Sin",
        ),
        (
            "rl_per_task={Difference: 3, Single_Image: 0}",
            r"'source.training.rl_per_task': must be a count of at least 1",
        ),
        ("cot_per_task=true", r"'source.training.cot_per_task': must be a count of at least 1"),
        ("tasks=[Nonsense]", r"'source.training.tasks.0': Input should be 'Common_Object'"),
    ],
)
def test_a_bad_count_in_the_recipe_is_an_error_that_names_its_key(change: str, message: str) -> None:
    training = "{kind: univg, cot_per_task: 2, rl_per_task: 2, tasks: [Difference], single_image: true}"
    overrides = [f"source.training={training}", f"source.training.{change}"]
    with pytest.raises(UserError, match=rf"key {message}"):
        load_recipe(RECIPES / "paper.yaml", overrides)


def test_stage_1_gives_way_to_stage_2_where_both_show_the_same_images(tmp_path: Path) -> None:
    cot = [make_cot(thought="The second image.", images=name_images("Free-Form", str(number))) for number in range(8)]
    rl = [make_rl(images=name_images("Free-Form", str(number))[::-1]) for number in range(3)]
    chosen, facts = choose(tmp_path, cot, rl)
    assert {split: len(samples) for split, samples in chosen.items()} == {"cot": 5, "rl": 3}
    assert facts["cot"]["dropped"] == {"Free-Form": {"images of an RL sample": 3}}
    assert not {s.cluster for s in chosen["cot"]} & {s.cluster for s in chosen["rl"]}


def test_the_known_instruction_is_cut_off_and_one_in_other_words_stays_and_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = "Put <think> and <answer> here."  # the real sentence is not ours to repeat
    monkeypatch.setattr(univg, "INSTRUCTION_CHARS", len(known))
    monkeypatch.setattr(univg, "INSTRUCTION_SHA256", hashlib.sha256(known.encode()).hexdigest())
    other = "Find it. Write <answer> at the end."
    questions = [f"Find it.  {known}\n", other, f"{known} Find it.", known]
    cot = [make_cot("Referring_Grounding", question) for question in questions]
    chosen, facts = choose(tmp_path, cot, [])
    assert [sample.question for sample in chosen["cot"]] == ["Find it.", other, f"{known} Find it."]
    assert facts["cot"]["other_instruction"] == 2
    assert facts["cot"]["dropped"] == {"Referring_Grounding": {"no question": 1}}


def test_the_scripted_teacher_without_faults_hands_the_released_reasoning_to_the_filters(tmp_path: Path) -> None:
    thoughts = {THOUGHT: None, "It is the dog on the left.": "image", "As given, image 2 has it.": "leak"}
    cot = [
        make_cot("Referring_Grounding", thought=thought, images=name_images("Referring_Grounding", str(number)))
        for number, thought in enumerate(thoughts)
    ]
    chosen, _ = choose(tmp_path, cot, [])
    recipe = load_recipe(RECIPES / "test.yaml")
    for sample, verdict in zip(chosen["cot"], thoughts.values(), strict=True):
        item = ModelInput(
            sample=sample,
            paths=tuple(Path(name) for name in sample.images),
            sizes=((500, 400),) * 3,
            resized_sizes=((252, 196),) * 3,
            messages=build_messages(sample.question, 3, "think", "box"),
            frame=recipe.model.frame,
        )
        (reply,) = write_replies(ScriptedTeacher(engine="scripted"), item, candidates=1, seed=0)
        answer = '<answer>{"image": 2, "bbox_2d": [25, 39, 76, 78]}</answer>'
        assert reply["completion"] == f"<think>{sample.facts}</think>{answer}"
        assert judge_completion(item, reply["completion"], recipe.synthesize) == verdict


TEXT = st.text(st.characters(exclude_categories=()), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.sampled_from(["<image>", COCO]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(
    make=st.sampled_from([make_cot, make_rl]),
    key=st.sampled_from(["images", "conversations", "messages", "question", "answer"]),
    inside=st.none() | st.integers(0, 1),
    value=JSON,
)
def test_any_value_in_a_record_is_refused_or_counted_and_what_is_kept_can_be_read(
    tmp_path_factory: pytest.TempPathFactory, make: Any, key: str, inside: int | None, value: Any
) -> None:
    folder, record = tmp_path_factory.mktemp("any"), make()
    if inside is not None and isinstance(record.get(key), list):
        record[key][inside] = value
    else:
        record[key] = value
    split = "rl" if make is make_rl else "cot"
    files: dict[str, list[Any]] = {"cot": [], "rl": [], split: [record]}
    try:
        chosen, facts = choose(folder, files["cot"], files["rl"], tasks=(*TASKS, SINGLE_IMAGE))
    except UserError as error:
        assert ".json, record 0: key '" in str(error)
        return
    dropped = sum(sum(reasons.values()) for reasons in facts[split]["dropped"].values())
    assert facts[split]["turns"] == dropped + len(chosen[split])
    write_jsonl(folder / "s.jsonl", [sample.to_json() for sample in chosen[split]])
    assert read_samples(folder / "s.jsonl") == chosen[split]
