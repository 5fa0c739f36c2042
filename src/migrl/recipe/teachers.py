"""Recipe section `synthesize.teacher`: who writes the reasoning, told apart by `engine`."""

from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from migrl.recipe.section import Batch, Count, Number, Rate, Seconds, Section, Share

Price = Annotated[Number, Field(ge=0, le=10**6)]


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


class ServerTeacher(PromptedTeacher):
    """Any server that speaks OpenAI's chat completions; a candidate is a request of its own.

    `key_file` holds the API key and nothing else. A request that fails in a way that may pass is sent again up to
    `retries` times, after random waits of at most `backoff_seconds`, twice, four times that, and so on; where nobody is
    there or the server has too much to do, for `outage_seconds`. A request that the server does not take, or never
    answers usably, is left without a reply, up to the share `unanswered` of all; more of them stop the stage. Prices
    are for a million tokens, in any currency. Only the model and how it is asked decide a result: where the server is,
    how it is reached and what it costs are no part of the stage's key.

    OpenAI's protocol knows no top_k and no repetition_penalty; vLLM and others take them beside it. `extensions` are
    those that are sent. A server that refuses them needs an empty list, and then samples by defaults of its own, often
    the checkpoint's.
    """

    engine: Literal["openai"]
    extensions: tuple[Literal["top_k", "repetition_penalty"], ...] = ("top_k", "repetition_penalty")
    token_limit_name: Literal["max_tokens", "max_completion_tokens"] = Field(default="max_tokens", exclude=True)
    base_url: str = Field(default="http://localhost:8000/v1", exclude=True)
    key_file: Path | None = Field(default=None, exclude=True)
    concurrency: Count = Field(default=64, exclude=True)
    connect_seconds: Seconds = Field(default=10.0, exclude=True)
    reply_seconds: Seconds = Field(default=600.0, exclude=True)
    retries: Annotated[int, Field(strict=True, ge=0, le=1000, exclude=True)] = 6
    backoff_seconds: Seconds = Field(default=1.0, exclude=True)
    outage_seconds: Annotated[Number, Field(ge=0, le=7 * 86400)] = Field(default=900.0, exclude=True)
    unanswered: Rate = Field(default=0.02, exclude=True)
    price_per_million_input: Price | None = Field(default=None, exclude=True)
    price_per_million_output: Price | None = Field(default=None, exclude=True)

    @model_validator(mode="after")
    def check_url(self) -> Self:
        try:
            url = urlsplit(self.base_url)
            sound = url.scheme in ("http", "https") and url.hostname and (url.port is None or url.port > 0)
        except ValueError:
            sound = False
        if not sound or url.query or url.fragment:
            raise ValueError("base_url: write it as http://HOST:PORT/v1, without a query")
        if url.username is not None or url.password is not None:
            # The value is not repeated: it would print the secret.
            raise ValueError("base_url: holds a user name or password; put the key into a file and name it in key_file")
        return self

    @model_validator(mode="after")
    def check_prices(self) -> Self:
        if (self.price_per_million_input is None) != (self.price_per_million_output is None):
            raise ValueError("price_per_million_input and price_per_million_output: state both or neither")
        return self


TeacherSettings = Annotated[
    ScriptedTeacher | TransformersTeacher | VllmTeacher | ServerTeacher, Field(discriminator="engine")
]
"""One of the teachers, by its engine."""
