"""Training batches of the tiny base: pictures with their cells' labels, and lessons with their tokens."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from random import Random

import torch
from torch.utils.data import IterableDataset
from transformers import ProcessorMixin

from migrl.grounding.prompts import build_messages
from migrl.world.lessons import Crowd, Lesson, draw_lesson
from migrl.world.scenes import COLOURS, SHAPES, crop_thing, draw_looks, draw_scene, render_scene
from migrl.world.see import IGNORED, label_cells

CHUNK_BATCHES = 8  # lessons are sorted by length within this many batches, then dealt out


class SceneBatches(IterableDataset[dict[str, torch.Tensor]]):
    """Endless batches of pictures with their cell labels (phase `see`)."""

    def __init__(self, processor: ProcessorMixin, *, seed: str, size: int) -> None:
        self.processor, self.seed, self.size = processor, seed, size

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        rng = Random(self.seed)
        while True:
            looks = [draw_looks(rng, rng.randint(1, 6), tuple(COLOURS), SHAPES) for _ in range(self.size)]
            scenes = [draw_scene(rng, some, specks=rng.choice((0, 0, 6))) for some in looks]
            scenes += [crop_thing(rng, scene.things[0]) for scene in scenes[: self.size // 4]]
            batch = self.processor.image_processor(images=[render_scene(s) for s in scenes], return_tensors="pt")
            cells = torch.tensor([cell for scene in scenes for cell in label_cells(scene)])
            yield {**batch, "cells": cells}


class LessonBatches(IterableDataset[dict[str, torch.Tensor]]):
    """Endless batches of lessons that `draw` makes; for the first `easy_steps` images hold fewer things."""

    def __init__(
        self,
        processor: ProcessorMixin,
        *,
        seed: str,
        size: int,
        crowd: Crowd,
        easy_steps: int = 0,
        draw: Callable[[Random, Crowd], Lesson] = draw_lesson,
    ) -> None:
        self.processor, self.seed, self.size = processor, seed, size
        self.crowd, self.easy_steps, self.draw = crowd, easy_steps, draw

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        rng, size = Random(self.seed), self.size
        step = 0
        while True:
            crowd = replace(self.crowd, most=2) if step < self.easy_steps else self.crowd
            lessons = [self.draw(rng, crowd) for _ in range(size * CHUNK_BATCHES)]
            lessons.sort(key=lambda lesson: (len(lesson.scenes), len(lesson.question + lesson.completion)))
            batches = [lessons[i : i + size] for i in range(0, len(lessons), size)]
            rng.shuffle(batches)
            for batch in batches:
                yield self.encode(batch)
                step += 1

    def encode(self, lessons: list[Lesson]) -> dict[str, torch.Tensor]:
        """Tokens padded on the left, labels on the completion and its end token only."""
        processor = self.processor
        end = processor.tokenizer.eos_token
        messages = [build_messages(x.question, len(x.scenes), x.style, x.kind) for x in lessons]
        prompts = [processor.apply_chat_template(m, add_generation_prompt=True, tokenize=False) for m in messages]
        texts = [prompt + lesson.completion + end for prompt, lesson in zip(prompts, lessons, strict=True)]
        images = [[render_scene(scene) for scene in lesson.scenes] for lesson in lessons]
        batch = processor(text=texts, images=images, padding=True, return_tensors="pt")
        lengths = [len(processor.tokenizer(lesson.completion + end).input_ids) for lesson in lessons]
        # Only the last positions carry loss, so only their logits are computed.
        labels = batch["input_ids"][:, -max(lengths) :].clone()
        for row, length in enumerate(lengths):
            labels[row, :-length] = IGNORED
        cells = torch.tensor([cell for lesson in lessons for scene in lesson.scenes for cell in label_cells(scene)])
        return {**batch, "labels": labels, "cells": cells}
