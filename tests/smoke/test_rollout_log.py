"""What GRPO answered while it trained is kept: whole groups, with what they earned, and as pictures in TensorBoard."""

import pytest
from smoke_run import FinishedRun, call_migrl
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from migrl.files import read_json, read_jsonl
from migrl.grounding.answers import has_exact_form
from migrl.grounding.samples import read_samples
from migrl.running.stage import TENSORBOARD


def test_kept_groups_say_what_was_answered_and_what_it_earned(finished: FinishedRun) -> None:
    recipe = read_json(finished.stage("grpo") / "manifest.json")["recipe"]["grpo"]
    samples = {sample.uid: sample for sample in read_samples(finished.stage("select") / "rl.jsonl")}
    rows = read_jsonl(finished.stage("grpo") / "rollouts.jsonl")
    assert [row["uid"] for row in rows] == ["1/1", "1/2"] and {row["step"] for row in rows} == {1}
    weights = {reward["name"]: reward["weight"] for reward in recipe["rewards"]}
    for row in rows:
        sample, group = samples[row["sample"]], row["completions"]
        assert len(group) == recipe["num_generations"]
        for one in group:
            assert one["rewards"]["format"] == has_exact_form(one["text"], sample.kind)
            assert one["rewards"]["hit"] == one["hit"] == (one["iou"] >= 0.5)
            assert one["reward"] == pytest.approx(sum(weights[name] * one["rewards"][name] for name in weights))
            assert len(one["boxes"]) == (one["status"] == "ok") and 0 < one["tokens"] <= recipe["max_new_tokens"]
        order = sorted(group, key=lambda one: one["reward"])
        assert [one["advantage"] for one in order] == sorted(one["advantage"] for one in group)
        assert sum(one["advantage"] for one in group) == pytest.approx(0, abs=1e-4)


def test_tensorboard_shows_the_same_groups_as_pictures(finished: FinishedRun) -> None:
    events = EventAccumulator(str(finished.stage("grpo") / TENSORBOARD)).Reload()
    assert events.Tags()["images"] == ["rollouts/1", "rollouts/2"]
    (picture,) = events.Images("rollouts/1")
    assert picture.step == 1 and picture.width > 100 and picture.encoded_image_string.startswith(b"\x89PNG")


def test_a_number_of_groups_that_is_none_is_refused_and_zero_keeps_none() -> None:
    refused = call_migrl("recipe", "--recipe", "test", "grpo.rollout_log.prompts=-1")
    assert refused.returncode == 1 and "grpo.rollout_log.prompts" in refused.stderr
    assert call_migrl("recipe", "--recipe", "test", "grpo.rollout_log.prompts=0").returncode == 0
