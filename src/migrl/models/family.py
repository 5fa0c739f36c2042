"""Model families: what a stage must know of a model beside its config. Another family is a record more.

    family      boxes                                    sides of pictures   source
    Qwen2.5-VL  pixels of the resized picture            multiples of 28 px  arXiv 2502.13923
    Qwen2-VL    thousandths of the picture's own sides   multiples of 28 px  arXiv 2409.12191
    Qwen3-VL    thousandths of the picture's own sides   multiples of 32 px  arXiv 2511.21631; QwenLM's 2d_grounding

A picture's area lies between the pixel limits. All have the same vision and control tokens, and transformers builds
them of modules with the same names. The chat template is the checkpoint's: Qwen2-VL's and Qwen2.5-VL's begin with a
system prompt, Qwen3-VL's does not. Loading is transformers' own (loading.py), as is resizing (grounding/images.py).
Which files are a processor's is the same for all families (folder.py). No torch here: a plan is made without it.
"""

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from migrl.errors import UserError
from migrl.grounding.boxes import Frame
from migrl.models.folder import CONFIG, read_config
from migrl.models.towers import DeepTower, FullTower, Tower, WindowTower


@dataclass(frozen=True)
class ModelFamily:
    """What models of one architecture have in common, whatever their size.

    Args:
        name: what people call it.
        model_types: `model_type` of its config.json.
        processor_class: transformers' name of its processor. AutoProcessor would take the one that a folder names.
        frames: what the numbers of its boxes may mean, its checkpoints' own first.
        pixel_factor: side in px of what becomes one token: a patch's, times how many are merged.
        vision_tokens: never sampled, as a placeholder in a completion breaks the next forward pass (trl #3847).
        control_tokens: of the chat template; a question that holds one would be another prompt than it seems.
        lora_targets: names of the language model's linear layers, a regular expression.
        vision_tower: name of the module that stays frozen.
        tower: the shape of that module, which its parameters and FLOPs are counted from.
        biases: whether query, key and value have them in the language model.
        head_norms: whether each head's queries and keys are normed there.
    """

    name: str
    model_types: tuple[str, ...]
    processor_class: str
    frames: tuple[Frame, ...]
    pixel_factor: int
    vision_tokens: tuple[str, ...]
    control_tokens: tuple[str, ...]
    lora_targets: str
    vision_tower: str
    tower: type[Tower]
    biases: bool
    head_norms: bool

    def is_vision(self, weight: str) -> bool:
        """Whether a weight of this name belongs to the vision tower, in LoRA's wrapping or without."""
        return f".{self.vision_tower}." in f".{weight}"

    def find_frame_fault(self, frame: Frame) -> str:
        """What is wrong with asking such a model for boxes in `frame`, and what is not; an empty text if nothing is."""
        if frame in self.frames:
            return ""
        return (
            f"model.frame={frame}: {self.name} reads and writes boxes in {', '.join(self.frames)}; set model.frame so"
        )


_QWEN_VISION_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")
_QWEN_CONTROL_TOKENS = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", *_QWEN_VISION_TOKENS)
# By full path: a suffix would hit the vision tower too.
_QWEN_LORA_TARGETS = r".*\.language_model\..*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"

FAMILIES = (
    ModelFamily(
        name="Qwen2.5-VL",
        model_types=("qwen2_5_vl",),
        processor_class="Qwen2_5_VLProcessor",
        frames=("resized_px", "original_px", "permille"),
        pixel_factor=28,
        vision_tokens=_QWEN_VISION_TOKENS,
        control_tokens=_QWEN_CONTROL_TOKENS,
        lora_targets=_QWEN_LORA_TARGETS,
        vision_tower="model.visual",
        tower=WindowTower,
        biases=True,
        head_norms=False,
    ),
    ModelFamily(
        name="Qwen2-VL",
        model_types=("qwen2_vl",),
        processor_class="Qwen2VLProcessor",
        frames=("permille",),
        pixel_factor=28,
        vision_tokens=_QWEN_VISION_TOKENS,
        control_tokens=_QWEN_CONTROL_TOKENS,
        lora_targets=_QWEN_LORA_TARGETS,
        vision_tower="model.visual",
        tower=FullTower,
        biases=True,
        head_norms=False,
    ),
    ModelFamily(
        name="Qwen3-VL",
        model_types=("qwen3_vl",),
        processor_class="Qwen3VLProcessor",
        frames=("permille",),
        pixel_factor=32,
        vision_tokens=_QWEN_VISION_TOKENS,
        control_tokens=_QWEN_CONTROL_TOKENS,
        lora_targets=_QWEN_LORA_TARGETS,
        vision_tower="model.visual",
        tower=DeepTower,
        biases=False,
        head_norms=True,
    ),
)


def find_family(config: Any) -> ModelFamily:
    """The family of a transformers config, or of anything with its `model_type`.

    Raises:
        UserError: a model type of no family.
    """
    return get_family(getattr(config, "model_type", None), getattr(config, "name_or_path", "") or "the model")


def find_processor_family(processor: object) -> ModelFamily:
    """The family whose processor this is, as `load_processor` gives it."""
    name = type(processor).__name__
    return next(family for family in FAMILIES if family.processor_class == name)


def read_family(folder: Path) -> ModelFamily:
    """The family of the model in `folder`, by its config.json.

    Raises:
        UserError: no such file, no JSON object, or a model type of no family.
    """
    return get_family(read_config(folder).get("model_type"), folder / CONFIG)


def get_family(model_type: object, source: str | Path) -> ModelFamily:
    """The family of a `model_type` that `source` states.

    Raises:
        UserError: none has it.
    """
    for family in FAMILIES:
        if model_type in family.model_types:
            return family
    known = {name: family.name for family in FAMILIES for name in family.model_types}
    nearest = get_close_matches(str(model_type), known, n=1, cutoff=0.0)[0]
    shown = ", ".join(f"{name} ({family})" for name, family in known.items())
    raise UserError(
        f"{source}: model_type is {model_type!r}, and the known ones are {shown}, of which {nearest} is the nearest; "
        "name such a model, or add its family to migrl/models/family.py"
    )
