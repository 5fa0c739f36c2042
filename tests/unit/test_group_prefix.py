"""A group behind one prompt: log-probabilities, gradients and steps are those of trl's own trainer."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from architectures import ARCHITECTURES, QWEN2_5_VL, QWEN3_VL, write_untrained
from peft import get_peft_model
from PIL import Image
from transformers import GenerationConfig, TrainerCallback
from trl import GRPOTrainer
from trl.trainer.utils import add_fused_lm_head

from migrl.errors import UserError
from migrl.grounding.samples import BoxTarget, Sample
from migrl.models.attention import fold_heads
from migrl.models.family import find_family, read_family
from migrl.models.inputs import ModelInput, prepare_input
from migrl.models.loading import load_model, load_processor
from migrl.recipe import LoraSettings, Recipe, load_recipe
from migrl.running.metering import StepMeter
from migrl.stages import grpo
from migrl.training.distinct_pictures import processing_distinct
from migrl.training.features import Pictures, accept_features
from migrl.training.group_rollouts import share_prompts
from migrl.training.packs import Rows, score_packs
from migrl.training.trainer import freeze_vision_tower, make_lora_config
from migrl.world.model import build_model

ROOT = Path(__file__).resolve().parents[2]
BASE = ROOT / "reproduce" / "tiny_base"
SIZES = {"wide.png": (112, 56), "high.png": (60, 90), "small.png": (56, 56), "like.png": (56, 56)}
PROMPTS = (["wide.png", "high.png"], ["small.png"], ["like.png"], ["small.png", "wide.png", "small.png"])
TEMPERATURE = 1.3
ENDS = [512, *range(0, 500, 8)]  # so that completions end early, at different lengths


@pytest.fixture(scope="module")
def architecture(request):
    """Qwen2.5-VL's, unless a test names others."""
    return getattr(request, "param", QWEN2_5_VL)


@pytest.fixture(scope="module")
def folder(architecture, tmp_path_factory) -> Path:
    """The tiny base, or a model of another family with random weights."""
    if architecture is QWEN2_5_VL:
        return BASE
    folder = tmp_path_factory.mktemp(architecture.model_type)
    write_untrained(folder, architecture)
    return folder


@pytest.fixture(scope="module")
def processor(folder):
    return load_processor(folder, min_pixels=3136, max_pixels=9600)


@pytest.fixture(scope="module")
def items(tmp_path_factory, folder, processor) -> list[ModelInput]:
    """Four questions of two lengths; the second and third differ by what their pictures show and in nothing else."""
    pictures = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for name, (width, height) in SIZES.items():
        Image.fromarray(random.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(pictures / name)
    target = BoxTarget(1, (0.0, 0.0, 0.5, 0.5))
    samples = [
        Sample(f"rl:{n}", "rl", "t", tuple(names), "Find it.", target, "c", sizes=tuple(SIZES[name] for name in names))
        for n, names in enumerate(PROMPTS)
    ]
    frame = read_family(folder).frames[0]
    return [prepare_input(sample, pictures, processor, frame=frame, style="think") for sample in samples]


def encode(items: list[ModelInput], processor: Any, lengths: list[int], group: int) -> tuple[Rows, list[Pictures]]:
    """Random completions of these lengths, `group` for each item, as trl would hold them, and the items' pictures."""
    texts = [processor.apply_chat_template(item.messages, add_generation_prompt=True, tokenize=False) for item in items]
    pictures = [item.load_images() for item in items]
    batch = processor(text=texts, images=pictures, padding=True, return_tensors="pt")
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    new = torch.randint(10, 400, mask.shape).masked_fill(~mask, 513)
    columns = {name: batch[name].repeat_interleave(group, 0) for name in ("input_ids", "attention_mask")}
    types = batch["mm_token_type_ids"].repeat_interleave(group, 0)
    rows = Rows(
        torch.cat([columns["input_ids"], new], 1),
        torch.cat([columns["attention_mask"], mask.long()], 1),
        torch.cat([types, torch.zeros_like(new)], 1),
        mask.shape[1],
    )
    grids = batch["image_grid_thw"].split([len(item.paths) for item in items])
    patches = batch["pixel_values"].split([int(grid.prod(1).sum()) for grid in grids])
    return rows, [Pictures(*pair) for pair in zip(patches, grids, strict=True)]


def score_alone(model: Any, rows: Rows, group: int, pictures: list[Pictures]) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities and entropies, each completion alone behind its prompt, without padding, from plain logits."""
    logps, entropies = (torch.zeros(len(rows.input_ids), rows.new) for _ in range(2))
    for row, mask in enumerate(rows.attention_mask.bool()):
        count = int(mask[-rows.new :].sum())
        if count == 0:
            continue
        ids, own = rows.input_ids[row, mask][None], pictures[row // group]
        given = {"pixel_values": own.values, "image_grid_thw": own.grids, "use_cache": False}
        types = rows.mm_token_type_ids[row, mask][None]
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), mm_token_type_ids=types, **given).logits
        scaled = (logits[0, -count - 1 : -1] / TEMPERATURE).log_softmax(-1)
        logps[row, :count] = scaled.gather(1, ids[0, -count:, None])[:, 0]
        entropies[row, :count] = -(scaled.exp() * scaled).sum(-1)
    return logps, entropies


@pytest.mark.parametrize("size", [1, 2, 4], ids=lambda size: f"packs_of_{size}")
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda found: found.model_type, indirect=True)
def test_a_packed_completion_has_the_log_probabilities_and_gradients_it_has_alone(
    architecture, lora, size, items, processor
):
    torch.manual_seed(0)
    base = build_model(processor, architecture)
    base.set_attn_implementation("sdpa")
    freeze_vision_tower(base)
    add_fused_lm_head(base, temperature=TEMPERATURE, outputs=("log_probs", "entropy"))
    model = adapt(base) if lora else base
    accept_features(base)
    rows, pictures = encode(items, processor, [7, 3, 9, 1, *[4] * 4, 2, 0, 5, 9, 1, 1, 6, 8], group=4)
    weights = torch.randn(len(rows.input_ids), rows.new)
    found, expected = {}, {}
    expected["logps"], expected["entropies"] = score_alone(model, rows, 4, pictures)
    packed = [some for some in pictures for _ in range(4 // size)]
    scores = score_packs(model, base, rows, size, packed)
    again = score_packs(model, base, rows, size, scores.pictures)
    assert torch.equal(again.logps, scores.logps)  # from features, as from the pixels they were made of
    found["logps"], found["entropies"] = scores.logps, scores.entropies
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, rtol=1e-6, atol=1e-5)
    gradients = [compute_gradient(model, (some["logps"] * weights).sum()) for some in (expected, found)]
    assert gradients[0].norm() > 0
    assert (gradients[1] - gradients[0]).norm() <= 1e-5 * gradients[0].norm()


def adapt(base: Any, rank: int = 4) -> Any:
    """The model with adapters that do something: fresh ones are 0."""
    settings = LoraSettings(rank=rank, alpha=2 * rank, dropout=0.0)
    model = get_peft_model(base, make_lora_config(settings, find_family(base.config)))
    shift_weights(model)
    return model


@pytest.mark.parametrize("shared", [False, True], ids=["a_row_each", "one_row"])
@pytest.mark.parametrize("sample", [False, True], ids=["greedy", "sampled"])
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda found: found.model_type, indirect=True)
def test_a_prompt_that_is_read_once_is_answered_as_if_each_rollout_had_read_it(
    architecture, lora, sample, shared, items, processor
):
    torch.manual_seed(0)
    base = build_model(processor, architecture)
    model = adapt(base) if lora else base
    rows, pictures = encode(items, processor, [1] * 16, group=4)
    prompts = {name: getattr(rows, name)[:, :-1] for name in ("input_ids", "attention_mask", "mm_token_type_ids")}
    copies = [some for some in pictures for _ in range(4)]
    prompts |= {"pixel_values": torch.cat([some.values for some in copies])}
    prompts |= {"image_grid_thw": torch.cat([some.grids for some in copies])}
    decoding = {"do_sample": sample, "temperature": 3.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0}
    config = GenerationConfig(max_new_tokens=40, eos_token_id=ENDS, pad_token_id=513, **decoding)
    expected = generate(model, prompts, config)
    kept: list[Pictures] = []
    accept_features(base)
    if shared:
        fold_heads(base)  # else the kernel is taken for one that reads no mask of blocks
    share_prompts(base, 4, kept.extend)
    found = generate(model, prompts, config)
    assert torch.equal(found, expected)
    assert len({tuple(row) for row in found.tolist()}) == (16 if sample else 4)
    new = found[:, prompts["input_ids"].shape[1] :].tolist()
    ends = {next((place for place, token in enumerate(row) if token in ENDS), 40) for row in new}
    assert not sample or len(ends) > 4, "completions leave at different times"
    assert [len(some.grids) for some in kept] == list(map(len, PROMPTS))


def test_copies_of_a_picture_are_processed_once_and_come_out_as_each_alone(items, processor):
    rows = [item.load_images() for item in items]
    copies = [pictures for pictures in rows for _ in range(3)]
    texts = [processor.apply_chat_template(x.messages, add_generation_prompt=True, tokenize=False) for x in items]
    texts = [text for text in texts for _ in range(3)]
    expected = processor(text=texts, images=copies, padding=True, return_tensors="pt")
    alone = processor.image_processor.preprocess
    with processing_distinct(processor):
        found = processor(text=texts, images=copies, padding=True, return_tensors="pt")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert processor.image_processor.preprocess == alone


def generate(model: Any, prompts: dict[str, Any], config: GenerationConfig) -> torch.Tensor:
    torch.manual_seed(3)
    with torch.no_grad():
        return model.generate(**prompts, generation_config=config)


def shift_weights(model: torch.nn.Module) -> None:
    """Move what is trained a little, so that adapters pass gradients on and the reference is another model."""
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight += 0.03 * torch.randn_like(weight)


def compute_gradient(model: torch.nn.Module, loss: torch.Tensor) -> torch.Tensor:
    model.zero_grad()
    loss.backward()
    return torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])


def load(*overrides: str, prefix: str = "true") -> Recipe:
    return load_recipe(ROOT / "reproduce/recipes/test.yaml", [*overrides, f"grpo.group_prefix={prefix}"])


def train_step(
    items: list[ModelInput],
    processor: Any,
    folder: Path,
    *overrides: str,
    base: Path = BASE,
    checkpointing: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
    prepare: Callable[[torch.nn.Module], None] = lambda model: None,
) -> tuple[GRPOTrainer, torch.Tensor]:
    """One step of a real trainer of the model in `base` on the four prompts: it, and how far each trained weight moved.

    `prepare` is called with the model and with the reference model. Rewards are the completions' own, so that every
    loss has something to do. Plain SGD, as Adam's first step is the sign of a gradient, also where that is noise.
    """
    basic = ["grpo.parallel=none", "grpo.num_generations=4", "grpo.prompts_per_step=4", "grpo.max_new_tokens=12"]
    basic += ["grpo.per_device_train_batch_size=8", "grpo.max_steps=1", "grpo.beta=0.1", "grpo.learning_rate=1.0"]
    basic += ["grpo.rewards=[{name: hit, weight: 1}]", f"sampling.temperature={TEMPERATURE}"]
    recipe = load_recipe(ROOT / "reproduce/recipes/test.yaml", [*basic, *overrides])
    config = grpo.make_config(recipe, folder, grpo.suppress_vision(processor))
    config.optim = "sgd"
    config.gradient_checkpointing = checkpointing
    model = load_model(base, recipe.model)
    model.generation_config.eos_token_id = ENDS
    trainer = grpo.build_trainer(recipe, config, model, processor, items, list(callbacks))
    trainer.reward_funcs = [lambda completion_ids, **_: [float(sum(ids) % 7) for ids in completion_ids]]
    shift_weights(trainer.model)
    for some in filter(None, (trainer.model, trainer.ref_model)):
        prepare(some)
    before = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    torch.manual_seed(2)
    trainer.train()
    moved = [
        (weight.detach() - before[name]).flatten()
        for name, weight in trainer.model.named_parameters()
        if weight.requires_grad
    ]
    return trainer, torch.cat(moved)


STEPS = {
    "dapo, batch, lora, two groups in a micro batch": ("loss_type=dapo", "scale_rewards=batch"),
    "grpo, group, full": ("loss_type=grpo", "scale_rewards=group", "lora=null"),
    "dr_grpo, none, halves of a group": ("loss_type=dr_grpo", "scale_rewards=none", "per_device_train_batch_size=2"),
    # Its loss depends on which completions share a micro batch, so here there is one.
    "bnpo, group, all in one": ("loss_type=bnpo", "scale_rewards=group", "per_device_train_batch_size=16"),
    "grpo, batch, lora, no reference": ("loss_type=grpo", "scale_rewards=batch", "beta=0.0"),
}


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize("settings", STEPS.values(), ids=STEPS.keys())
def test_a_step_has_the_loss_of_trl_and_moves_the_weights_as_far(settings, checkpointing, items, processor, tmp_path):
    overrides = [f"grpo.{setting}" for setting in settings]
    (stock, expected), (ours, found) = (
        train_step(
            items, processor, tmp_path / name, *overrides, f"grpo.group_prefix={name}", checkpointing=checkpointing
        )
        for name in ("false", "true")
    )
    log, other = stock.state.log_history[0], ours.state.log_history[0]
    assert log["completions/min_length"] < log["completions/mean_length"] < log["completions/max_length"]
    assert log["reward_std"] > 0 and expected.norm() > 0 and ("kl" not in log or log["kl"] > 1e-3)
    # Of entropy and KL trl logs the mean of its micro batches' means.
    means = ("entropy", "kl") if "per_device_train_batch_size=16" in settings else ()
    for name in ("loss", "grad_norm", "reward", "reward_std", "completions/mean_length", *means):
        assert other[name] == pytest.approx(log[name], rel=1e-5, abs=1e-6), name
    assert (found - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize("architecture", ARCHITECTURES[1:], ids=lambda found: found.model_type, indirect=True)
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_a_step_of_another_family_moves_its_weights_as_far_as_trl_does(lora, folder, items, processor, tmp_path):
    overrides = () if lora else ("grpo.lora=null",)
    (_, expected), (_, found) = (
        train_step(items, processor, tmp_path / name, *overrides, f"grpo.group_prefix={name}", base=folder)
        for name in ("false", "true")
    )
    assert expected.norm() > 0 and (found - expected).norm() <= 1e-5 * expected.norm()


def test_a_kernel_that_does_not_read_the_mask_is_never_silently_replaced():
    with pytest.raises(UserError, match=r"group_prefix=true beside model.attention=eager.*group_prefix=sdpa"):
        load("model.attention=eager")


def test_the_tower_keeps_the_recipes_kernel_while_packs_are_read_under_sdpa(items, processor, tmp_path):
    # Under eager the packs' mask would be added to the scores, as ones and zeros.
    (_, expected), (_, found) = (
        train_step(items, processor, tmp_path / name, "model.attention=eager", f"grpo.group_prefix={name}")
        for name in ("false", "sdpa")
    )
    assert (found - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize("architecture", [QWEN2_5_VL, QWEN3_VL], ids=lambda found: found.model_type, indirect=True)
@pytest.mark.parametrize("settings", [(), ("grpo.lora=null",), ("grpo.beta=0",)], ids=["lora", "full", "no_reference"])
def test_the_tower_sees_the_pictures_of_a_prompt_once_a_step(settings, folder, items, processor, tmp_path):
    patches: list[int] = []

    def count(model: torch.nn.Module) -> None:
        for name, module in model.named_modules():
            if name.endswith("visual.blocks.0"):
                module.register_forward_pre_hook(lambda module, given: patches.append(len(given[0])))

    train_step(items, processor, tmp_path, "grpo.group_prefix=true", *settings, base=folder, prepare=count)
    patch = processor.image_processor.patch_size
    once = [height // patch * (width // patch) for item in items for width, height in item.resized_sizes]
    assert sum(patches) == sum(once)


def test_a_step_is_metered_by_what_it_needs_and_counts_whole_sequences(items, processor, tmp_path):
    meters = {name: StepMeter(LoraSettings(rank=8, alpha=16), rollouts=True) for name in ("false", "true")}
    for name, meter in meters.items():
        train_step(items, processor, tmp_path, f"grpo.group_prefix={name}", callbacks=[meter])
    (stock,), (ours,) = (meter.steps for meter in meters.values())
    assert stock.sequences == ours.sequences == 16
    assert stock.tokens == ours.tokens + 16 and stock.longest == ours.longest + 1  # the last predicts nothing
    # Of a group of four a quarter of pictures and prompts, and all of the completions.
    assert stock.flops / 4 < ours.flops < stock.flops / 3


@pytest.mark.parametrize("micro", [8, 16, 4, 2, 1])
def test_a_micro_batch_is_whole_groups_or_a_whole_part_of_one(micro):
    load("grpo.num_generations=4", "grpo.prompts_per_step=4", f"grpo.per_device_train_batch_size={micro}")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ("grpo.num_generations=6", "grpo.prompts_per_step=4", "grpo.per_device_train_batch_size=8"),
            r"per_device_train_batch_size=8 .* num_generations=6 .*; legal values: 1, 2, 3, 6, 12, 24, or",
        ),
    ],
)
def test_what_cannot_be_packed_is_refused_with_what_can(overrides, message):
    with pytest.raises(UserError, match=message):
        load(*overrides)
    load(*overrides, prefix="false")
