"""Recipe section `synthesize.teacher`: who writes the reasoning, told apart by `engine`."""

from typing import Annotated, Literal

from pydantic import Field

from migrl.recipe.engines import ServerSettings, VllmSettings
from migrl.recipe.section import Batch, Count, Number, Rate, Section, Share


class ScriptedTeacher(Section):
    """The tiny world's teacher, which errs at the stated rates."""

    engine: Literal["scripted"]
    wrong_object: Rate = 0.0
    leaked_truth: Rate = 0.0
    malformed: Rate = 0.0
    too_long: Rate = 0.0


class PromptedTeacher(Section):
    """A model that is asked with the texts of synthesis/teachers; `max_new_tokens` bounds each of its completions.

    Every engine samples by these settings and by nothing that comes with the model; `top_k` 0 and `top_p` 1 cut
    nothing off.
    """

    model: str
    temperature: Annotated[Number, Field(ge=0, le=2)] = 0.7
    top_k: Annotated[int, Field(strict=True, ge=0, lt=2**31)] = 0
    top_p: Annotated[Number, Field(gt=0, le=1)] = 1.0
    repetition_penalty: Annotated[Number, Field(gt=0, le=2)] = 1.0
    max_new_tokens: Count = 1024


class LocalTeacher(PromptedTeacher):
    """Weights that run here: `model` is a folder or a Hub id, brought by fetch as the base model is.

    `revision` null takes the Hub's newest commit once, when it is fetched, and records it.
    """

    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = None
    sha256: dict[str, str] = {}
    dtype: Literal["float32", "bfloat16"] = "bfloat16"


class TransformersTeacher(LocalTeacher):
    """A model of a known family that fits on one device a process.

    A batch holds at most `batch` questions and `batch_pixels` pixels of their resized pictures.
    """

    engine: Literal["transformers"]
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    batch: Batch = 8
    batch_pixels: Count | None = None


class VllmTeacher(LocalTeacher):
    """Weights under vLLM, cut over `tensor_parallel` devices of this machine, which is the order of its sums.

    `memory` is its share of each device; replies are kept after every `batch` questions.
    """

    engine: Literal["vllm"]
    context_tokens: Count = 32768
    tensor_parallel: Count = 1
    memory: Share = Field(default=0.9, exclude=True)
    batch: Batch = Field(default=256, exclude=True)

    @property
    def vllm(self) -> VllmSettings:
        """The same in vLLM's words."""
        return VllmSettings(
            tensor_parallel_size=self.tensor_parallel,
            gpu_memory_utilization=self.memory,
            max_model_len=self.context_tokens,
            batch=self.batch,
        )


class ServerTeacher(PromptedTeacher, ServerSettings):
    """A model behind a server (`ServerSettings`); a candidate is a request of its own."""

    engine: Literal["server"]


TeacherSettings = Annotated[
    ScriptedTeacher | TransformersTeacher | VllmTeacher | ServerTeacher, Field(discriminator="engine")
]
"""One of the teachers, by its engine."""
