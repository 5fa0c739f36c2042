"""Which engine answers, how vLLM is started where it does, and how a server is asked."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from migrl.recipe.section import Batch, Count, Number, Rate, Seconds, Section, Share

EngineName = Literal["transformers", "vllm"]
Price = Annotated[Number, Field(ge=0, le=10**6)]


class VllmSettings(Section):
    """vLLM for select, evaluate and pass_rates: one engine for each process, or for `tensor_parallel_size` of them.

    `max_model_len` bounds prompt and completion together, in tokens; answers are kept after every `batch` questions.
    All but `batch` have vLLM's names. `enforce_eager` is for the rollouts of grpo as well, which have further keys.
    """

    tensor_parallel_size: Count = 1
    gpu_memory_utilization: Share = 0.9
    max_model_len: Count = 8192
    max_num_seqs: Count = 256
    enforce_eager: bool = False
    batch: Batch = 256


class ServerSettings(Section):
    """Any server that speaks OpenAI's chat completions; a completion is a request of its own.

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

    model: Annotated[str, Field(min_length=1)]
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

    @property
    def sent(self) -> tuple[str, ...]:
        """The values of a decoding that the server is told beside the token limit."""
        return ("temperature", "top_p", *self.extensions, "seed")

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


class ServedArm(ServerSettings):
    """An arm that someone serves: no weights, no training. It is asked what the other arms are, decoded as they are.

    `omits` are values that the server refuses to be told, such as the temperature of many a model that reasons; it then
    takes its own, and evaluations.json says so.
    """

    engine: Literal["server"]
    base_url: str = Field(exclude=True)
    omits: tuple[Literal["temperature", "top_p", "seed"], ...] = ()

    @property
    def sent(self) -> tuple[str, ...]:
        return tuple(name for name in super().sent if name not in self.omits)

    def describe(self) -> dict[str, Any]:
        """What evidence holds of it: what decides an answer, and the address; not how it is reached from here."""
        return {**self.model_dump(mode="json"), "base_url": self.base_url}


class VllmRolloutSettings(Section):
    """vLLM for the rollouts of grpo, where `engine` is vllm. All keys have trl's names, meaning and defaults.

    colocate: in the training processes, on a share of each GPU's memory; its length and number of sequences follow from
        the prompts. With `vllm_enable_sleep_mode` it gives that share back while the step trains.
    server: on other GPUs, as `vllm serve` at `vllm_server_base_url`; training/vllm_rollouts.py has the command.

    vLLM's sums differ from the trainer's, and so do the probabilities that tokens were sampled with: the correction
    weighs a completion by the ratio of both (`vllm_importance_sampling_mode`) and leaves out or cuts what is above
    `vllm_importance_sampling_clip_max`.
    """

    vllm_mode: Literal["colocate", "server"] = "colocate"
    vllm_server_base_url: str | None = None
    vllm_server_timeout: Seconds = Field(default=240.0, exclude=True)
    vllm_gpu_memory_utilization: Annotated[Number, Field(gt=0, lt=1)] = 0.3
    vllm_tensor_parallel_size: Count = 1
    vllm_enable_sleep_mode: bool = False
    vllm_importance_sampling_correction: bool = True
    vllm_importance_sampling_mode: Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"] = (
        "sequence_mask"
    )
    vllm_importance_sampling_clip_max: Annotated[Number, Field(ge=1)] = 3.0

    @model_validator(mode="after")
    def check_vllm_mode(self) -> Self:
        if (self.vllm_mode == "server") != (self.vllm_server_base_url is not None):
            raise ValueError(
                "vllm_server_base_url is where vllm_mode=server finds `vllm serve`, such as http://gpu2:8000; name it "
                "for that mode, and only for it"
            )
        if self.vllm_mode == "server" and (self.vllm_enable_sleep_mode or self.vllm_tensor_parallel_size > 1):
            raise ValueError(
                "vllm_enable_sleep_mode and vllm_tensor_parallel_size are for vllm_mode=colocate; give a server "
                "--tensor-parallel-size when it starts, and leave both out"
            )
        return self
