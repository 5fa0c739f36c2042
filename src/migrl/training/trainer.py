"""What the two training stages share: LoRA on the language model, data sets for trl, logs, gates."""

import logging
import sys
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import PartialState
from datasets import Dataset, Features, List, Value
from peft import LoraConfig, PeftModel
from PIL import Image
from torch.distributed import distributed_c10d
from transformers import PreTrainedModel, ProcessorMixin, ProgressCallback, Trainer, TrainerCallback

from migrl.errors import UserError
from migrl.grounding.images import read_image
from migrl.models.family import ModelFamily, find_family
from migrl.models.folder import CONFIG, INDEX
from migrl.models.inputs import ModelInput
from migrl.recipe import AlarmSettings, LoraSettings, Parallel, WatchSettings
from migrl.running.stage import StageContext
from migrl.running.watch.guard import AlreadyTrained, LongRunGuard, share_first_message
from migrl.running.worker import Rank
from migrl.training.checkpoints import find_checkpoint
from migrl.training.features import find_tower
from migrl.training.step_log import ProgressBar, ProgressLines, StepLog, list_steps

LOG = "log.jsonl"
ADAPTER_CONFIG = "adapter_config.json"

MESSAGES = List({"role": Value("string"), "content": List({"type": Value("string"), "text": Value("string")})})


def make_lora_config(settings: LoraSettings, family: ModelFamily) -> LoraConfig:
    """LoRA on every linear layer of the language model."""
    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        bias="none",
        task_type="CAUSAL_LM",
        target_modules=family.lora_targets,
    )


def freeze_vision_tower(model: PreTrainedModel) -> None:
    """Train nothing in the vision tower, and run it as in evaluation: without gradients or checkpointing.

    Gradient checkpointing lets gradients in at every submodule's input embedding, the tower's patches among them
    (transformers' `enable_input_require_grads`): a frozen tower would be run a second time and passed through
    backwards, for nothing. Called before a trainer has wrapped the model.
    """
    tower: Any = find_tower(model)
    tower.requires_grad_(False)
    tower.forward = torch.no_grad()(tower.forward)
    tower.eval()
    tower.train = lambda mode=True: tower  # a trainer puts the whole model into training mode before each step


def get_model(trainer: Trainer) -> PreTrainedModel | PeftModel:
    """What a trainer trains: the model it was given, in LoRA's wrapping if there is any."""
    return cast(PreTrainedModel | PeftModel, trainer.model)


def check_trainable(model: PreTrainedModel | PeftModel) -> int:
    """Number of trainable parameters; the vision tower must have none.

    Raises:
        UserError: something in the vision tower would be trained, or nothing at all.
    """
    names = [name for name, weight in model.named_parameters() if weight.requires_grad]
    vision = list(filter(find_family(model.config).is_vision, names))
    if vision:
        raise UserError(f"{vision[0]}: the vision tower must stay frozen; correct the LoRA targets")
    if not names:
        raise UserError("no parameter is trainable; correct the LoRA targets")
    # ZeRO-3 leaves an empty tensor where a weight was, and its size beside it.
    return sum(getattr(weight, "ds_numel", weight.numel()) for weight in model.parameters() if weight.requires_grad)


def choose_backend(parallel: Parallel, watch: WatchSettings) -> dict[str, Any]:
    """The trainer's arguments for the devices it runs on, and for how long processes wait for each other.

    accelerate finds GPUs by itself. On a CPU it takes several processes for one each unless it is told: by `use_cpu`,
    or, as that would turn DeepSpeed off, by the backend.
    """
    patience = {"ddp_timeout": watch.collective_seconds}
    if torch.cuda.is_available():
        return patience
    return patience | ({"use_cpu": True} if parallel == "none" else {"ddp_backend": "gloo"})


def compile_nothing() -> None:
    """Let DeepSpeed compile no kernel on a CPU.

    Its all-reduce of inference would take a minute and a compiler in every new environment, and no training calls it.
    """
    if not torch.cuda.is_available():
        import deepspeed  # not by what only starts the processes: it would warn there that it finds no GPU

        vars(deepspeed.ops)["__compatible_ops__"] = {}  # which it would find out and keep


def set_patience(watch: WatchSettings) -> None:
    """Let processes wait for each other for as long as `choose_backend` says in every group of them.

    DeepSpeed makes groups of its own, which take torch's defaults (10 minutes with NCCL) and not the first one's limit:
    they would give up before the watchdog has told where a process stands.
    """
    wait = timedelta(seconds=watch.collective_seconds)
    distributed_c10d.default_pg_timeout = wait
    distributed_c10d.default_pg_nccl_timeout = wait


def check_processes(trainer: Trainer, rank: Rank) -> None:
    """Stop if the trainer does not know of the other processes: each would train alone, on everything.

    Raises:
        UserError: the trainer counts other processes than were started.
    """
    found = trainer.accelerator.num_processes
    if found != rank.count:
        raise UserError(f"{rank.count} processes were started and the trainer sees {found}; use the pinned accelerate")


def build_dataset(items: list[ModelInput], completions: list[str] | None = None) -> Dataset:
    """A data set in trl's form.

    Its columns are `uid`, `prompt` (messages with image placeholders), `images` (decoded on access), `completion`.

    `datasets.Image` would turn pictures by their EXIF tag, which boxes do not follow; ours are those of `read_image`.
    """
    table: dict[str, list[Any]] = {
        "uid": [item.sample.uid for item in items],
        "prompt": [item.messages for item in items],
        "images": [
            [{"path": str(path), "size": list(size)} for path, size in zip(item.paths, item.sizes, strict=True)]
            for item in items
        ],
    }
    images = List({"path": Value("string"), "size": List(Value("int64"))})
    features = Features(uid=Value("string"), prompt=MESSAGES, images=images)
    if completions is not None:
        table["completion"] = [
            [{"role": "assistant", "content": [{"type": "text", "text": text}]}] for text in completions
        ]
        features["completion"] = MESSAGES
    stored = Dataset.from_dict(table, features=features)
    return stored.with_transform(decode_images, columns=["uid", "images"], output_all_columns=True)


def decode_images(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Rows of `build_dataset` with their pictures decoded: the same objects for copies of a row, as a group has them.

    Raises:
        UserError: naming the sample, if a picture is not what it was at fetch.
    """
    decoded: dict[str, list[Image.Image]] = {}
    for uid, images in zip(rows["uid"], rows["images"], strict=True):
        if uid in decoded:
            continue
        try:
            decoded[uid] = [read_image(Path(image["path"]), tuple(image["size"])) for image in images]
        except UserError as error:
            raise UserError(f"sample {uid!r}: {error}") from error
    return {**rows, "images": [decoded[uid] for uid in rows["uid"]]}


def make_callbacks(context: StageContext, alarms: AlarmSettings | None = None) -> list[TrainerCallback]:
    """The log, and what may end a training (running/watch/guard.py)."""
    process = PartialState()
    guard = LongRunGuard(context.folder, context.recipe.watch, alarms, list_steps, process.process_index)
    return [StepLog(context.folder / LOG), guard] if process.is_main_process else [guard]


def train_resuming(trainer: Trainer, context: StageContext) -> None:
    """Train, showing how far it is, from the last complete checkpoint if there is one.

    Raises:
        UserError: an alarm, or no room for a checkpoint.
        Stopped: a signal asked for it; the checkpoint is saved.
    """
    guard = trainer.pop_callback(LongRunGuard)
    assert isinstance(guard, LongRunGuard)  # of make_callbacks
    # All from the same, though another machine may see the files of the last one later.
    checkpoint = share_first_message(find_checkpoint(context.folder / "checkpoints", trainer.args.world_size))
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(ProgressBar() if sys.stderr.isatty() else ProgressLines(context.name))
    trainer.add_callback(guard)
    trainer.args.logging_nan_inf_filter = False  # else a loss that is no number is logged as the mean of those before
    say_beforehand(trainer)
    logging.getLogger("transformers.trainer_utils").addFilter(is_worth_telling)
    with guard.watching(get_model(trainer)), suppress(AlreadyTrained):  # then what it loaded is the result
        trainer.train(resume_from_checkpoint=checkpoint)


def say_beforehand(trainer: Trainer) -> None:
    """Set what the trainer would find missing, and then set so itself with a warning.

    It looks for the tokenizer's tokens in a model's outer configuration; one with a vision tower has them in that of
    its language model. And it tells DeepSpeed of how many gradients are added up, but not accelerate. It still warns of
    a token that the model's own generation does not know.
    """
    processor = trainer.processing_class
    if isinstance(processor, ProcessorMixin):
        config = get_model(trainer).config
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            if getattr(config, name, None) != (token := getattr(processor.tokenizer, name)):
                setattr(config, name, token)
    if trainer.is_deepspeed_enabled:
        trainer.accelerator.gradient_accumulation_steps = trainer.args.gradient_accumulation_steps


def is_worth_telling(record: logging.LogRecord) -> bool:
    """Not that checkpoints of one second are ordered by their steps: a disk is suspected, and nothing is wrong."""
    return "mtime may not be reliable" not in record.getMessage()


def save_trained(trainer: Trainer, folder: Path) -> None:
    """Save adapter or model as safetensors with its config."""
    trainer.save_model(str(folder))
    if trainer.is_world_process_zero():
        # The tokenizer that trl saves beside it differs by whether a step was made since the start; its arguments are a
        # pickle with this machine's paths.
        for path in folder.iterdir():
            if path.suffix != ".safetensors" and path.name not in (CONFIG, INDEX, ADAPTER_CONFIG):
                path.unlink()
