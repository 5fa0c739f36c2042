"""Kernels that could do a pack's attention, forward and backward, at the shapes of one layer.

    sdpa      one call under a mask of bytes, keys and values copied for each head that shares them: what is used today
    cudnn     the same by cuDNN, which sdpa would choose on Hopper (models/loading.py); a plan of each shape comes first
    flex      one compiled call that leaves out the blocks which the mask hides whole
    varlen    flash attention in two calls: the prompt by itself, then each completion behind its copy of its keys

All but the first need a GPU. They all give the same sums but for their order; that is measured beside their time.
"""

from collections.abc import Callable, Iterator
from functools import partial
from inspect import signature

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.attention.varlen import varlen_attn

from kit.bench import Bench, close_part
from kit.ceilings import REPETITIONS, time_launches
from migrl.models.attention import attend_folded
from migrl.models.flops import Forward, count_forward
from migrl.models.inputs import count_prompt
from migrl.models.loading import choose_kernels, pick_device
from migrl.report.gpu_parts import Figure, Part
from migrl.training.packs import make_mask

Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Of (1, heads, tokens, size) queries, and keys and values of fewer heads; the output is like the queries."""


def measure_attention(bench: Bench, attention: str) -> Iterator[Part]:
    """One layer's attention over a pack: a prompt of middling length, and a group's completions at their limit."""
    prompt = sum(count_prompt(bench.list_items("rl", bench.processor, bench.pictures)[0], bench.processor))
    new, completions = bench.recipe.grpo.max_new_tokens, bench.recipe.grpo.num_generations
    settings = {"prompt": prompt, "new": new, "completions": completions, "repetitions": REPETITIONS}
    part = bench.describe(attention, settings)
    yield part
    choose_kernels()
    config = bench.read_config()
    text = config.get_text_config()
    heads, shared = text.num_attention_heads, text.num_key_value_heads
    size = text.hidden_size // heads
    segments = torch.arange(completions + 1).repeat_interleave(torch.tensor([prompt] + [new] * completions))
    segments = segments[None].to(pick_device())
    kernels: dict[str, Kernel] = {"sdpa": partial(attend_masked, make_mask(segments))}
    if torch.cuda.is_available():
        kernels["cudnn"] = partial(attend_by_cudnn, kernels["sdpa"])
        kernels |= {"varlen": partial(attend_twice, prompt, new), "flex": make_flex(segments[0])}
    options = {"device": segments.device, "dtype": getattr(torch, bench.recipe.model.dtype)}
    torch.manual_seed(0)
    given = [torch.randn(1, count, segments.shape[1], size, **options) for count in (heads, shared, shared)]
    work = count_forward(config, [prompt + new] * completions, 0, [], shared=[prompt] * (completions - 1))
    flops = Forward(attention=work.attention / text.num_hidden_layers).train(lora=True)
    words = f"{prompt:,} + {completions} x {new} tokens, {heads} heads of {size}"
    reference = run_kernel(kernels["sdpa"], given)
    figures: dict[str, Figure] = {}
    for name, kernel in kernels.items():
        found = run_kernel(kernel, given)
        gap = max(float((a - b).norm() / b.norm()) for a, b in zip(found, reference, strict=True))
        figures[name] = Figure(
            what=words if name == "sdpa" else f"{words}; {gap:.1g} from sdpa",
            seconds=time_launches(partial(run_kernel, kernel, given)),
            flops=flops,
        )
        yield close_part(part, figures, None, complete=len(figures) == len(kernels))


def run_kernel(kernel: Kernel, given: list[Tensor]) -> list[Tensor]:
    """Output and gradients, of the sum of squares of the output."""
    leaves = [values.detach().requires_grad_() for values in given]
    output = kernel(*leaves)
    output.float().square().sum().backward()
    return [output.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


def attend_masked(mask: Tensor, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """One call under a mask, as the packed pass makes it."""
    layer = nn.Module()
    layer.num_key_value_groups = query.shape[1] // key.shape[1]  # all that it is asked for
    return attend_folded(layer, query, key, value, mask)[0].transpose(1, 2)


def attend_by_cudnn(attend: Kernel, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The same call, by cuDNN alone."""
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        return attend(query, key, value)


def make_flex(segments: Tensor) -> Kernel:
    """One compiled call; `segments` (tokens,) is 0 for the prompt and numbers the completions."""

    def sees(row: Tensor, head: Tensor, asking: Tensor, asked: Tensor) -> Tensor:
        own = segments[asking] == segments[asked]
        return (own | (segments[asked] == 0)) & (asked <= asking)

    tokens = len(segments)
    blocks = create_block_mask(sees, None, None, tokens, tokens, device=str(segments.device))
    return partial(torch.compile(flex_attention), block_mask=blocks, enable_gqa=True)


def attend_twice(prompt: int, new: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The prompt by itself, then every completion over a copy of the prompt's keys and its own."""
    query, key, value = (given[0].transpose(0, 1) for given in (query, key, value))
    count = (len(query) - prompt) // new
    # Older releases of torch share heads unasked.
    shares = {"enable_gqa": True} if "enable_gqa" in signature(varlen_attn).parameters else {}

    def call(query: Tensor, key: Tensor, value: Tensor, rows: int) -> Tensor:
        lengths = len(query) // rows, len(key) // rows
        ends = (torch.arange(rows + 1, device=query.device, dtype=torch.int32) * length for length in lengths)
        return varlen_attn(query, key, value, *ends, *lengths, window_size=(-1, 0), **shares)

    def copy_prompt(values: Tensor) -> Tensor:
        own = values[prompt:].unflatten(0, (count, new))
        return torch.cat([values[None, :prompt].expand(count, -1, -1, -1), own], 1).flatten(0, 1)

    first = call(query[:prompt], key[:prompt], value[:prompt], 1)
    rest = call(query[prompt:], copy_prompt(key), copy_prompt(value), count)
    return torch.cat([first, rest]).transpose(0, 1)[None]
