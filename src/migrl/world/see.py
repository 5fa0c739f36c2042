"""The vision head of the base's training: what each visual token shows, read out cell by cell.

The densest signal there is; the head is dropped after training.
"""

import torch
import torch.nn.functional as F
from torch import nn
from transformers import ProcessorMixin

from migrl.world.scenes import COLOURS, SHAPES, Scene

IGNORED = -100  # label of a position that carries no loss


class SeeHead(nn.Module):
    """Read-out of one visual token: colour, shape (0 = nothing) and 4 x 3 digits of the box in px.

    Colours and shapes are scored against the language model's own word embeddings, so that a visual
    token points where its words point: the model later finds a named thing by likeness. Digits and
    "nothing" have a linear layer.
    """

    def __init__(self, embeddings: nn.Embedding, word_ids: list[int]) -> None:
        super().__init__()
        self.words = [embeddings]  # in a list, so that the module does not own the model's weights
        self.word_ids = word_ids
        self.linear = nn.Linear(embeddings.embedding_dim, 2 + 10 * 12)
        self.scale = nn.Parameter(torch.tensor(0.1))

    def compute_loss(self, tokens: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy; `tokens` (n, hidden), `cells` (n, 14) with IGNORED where nothing is to say."""
        words = self.scale * tokens @ self.words[0].weight[self.word_ids].T
        colours, shapes = words.split([len(COLOURS), len(SHAPES)], dim=1)
        no_colour, no_shape, *digits = self.linear(tokens).split([1, 1] + [10] * 12, dim=1)
        parts = [torch.cat([no_colour, colours], 1), torch.cat([no_shape, shapes], 1), *digits]
        losses = [F.cross_entropy(part, cells[:, i], ignore_index=IGNORED) for i, part in enumerate(parts)]
        return torch.stack(losses).mean()


def find_word_ids(processor: ProcessorMixin) -> list[int]:
    """Token ids of the colour and shape words, each a single token with its space."""
    ids = [processor.tokenizer(f" {word}").input_ids for word in (*COLOURS, *SHAPES)]
    assert all(len(some) == 1 for some in ids), "the tokenizer's corpus must merge every colour and shape"
    return [some[0] for some in ids]


def label_cells(scene: Scene) -> list[list[int]]:
    """What each visual token of a scene's picture shows, row by row (see SeeHead)."""
    cells = [[0, 0] + [IGNORED] * 12 for _ in range(scene.rows * scene.columns)]
    for thing in scene.things:
        digits = [int(d) for v in thing.box_cell_px for d in f"{round(v):03d}"]
        colour, shape = list(COLOURS).index(thing.look.colour), SHAPES.index(thing.look.shape)
        cells[thing.row * scene.columns + thing.column] = [colour + 1, shape + 1, *digits]
    return cells
