"""Vision towers with their mergers, by family: their shapes, read from a config, and the parameters and FLOPs of these.

    WindowTower  Qwen2.5-VL: a patch sees its window of 64, and all patches in a few layers
    FullTower    Qwen2-VL: a patch sees all patches in every layer
    DeepTower    Qwen3-VL: the same, with learned positions and a merger more for each layer that deepstack taps

Attributes have the config's names, which mean other things from family to family; the properties mean the same in all.
What is counted as a FLOP: flops.py. No torch here.
"""

from abc import ABC, abstractmethod
from typing import Annotated, ClassVar

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

Size = Annotated[int, Field(ge=1)]


class Tower(BaseModel, ABC):
    """What all towers have; `patch_size` in px.

    `mlp_matrices` is how many matrices a layer's MLP has, `norm_vectors` how many vectors a norm has.
    """

    # From JSON, or from transformers' own config.
    model_config = ConfigDict(frozen=True, extra="ignore", from_attributes=True)
    mlp_matrices: ClassVar[int]
    norm_vectors: ClassVar[int]

    depth: Size
    num_heads: Size
    patch_size: Size
    temporal_patch_size: Size
    spatial_merge_size: Size
    in_channels: Annotated[int, Field(ge=1, validation_alias=AliasChoices("in_channels", "in_chans"))]

    @property
    @abstractmethod
    def width(self) -> int:
        """Features of a patch between layers."""

    @property
    @abstractmethod
    def inner(self) -> int:
        """Features inside a layer's MLP."""

    @property
    @abstractmethod
    def out(self) -> int:
        """Features of a token that the language model gets."""

    @abstractmethod
    def count_seen(self, patches: int) -> int:
        """Patches that one patch sees, all layers together."""

    @property
    def cell(self) -> int:
        """Side in px of what becomes one token."""
        return self.patch_size * self.spatial_merge_size

    @property
    def patch_values(self) -> int:
        """Numbers that the processor hands over for one patch."""
        return self.in_channels * self.temporal_patch_size * self.patch_size**2

    @property
    def merged(self) -> int:
        """Features of the patches that a merger makes one token of."""
        return self.width * self.spatial_merge_size**2

    @property
    def mergers(self) -> int:
        """How many there are: the language model gets so many times `out` features of a token."""
        return 1

    def count_parameters(self) -> int:
        """A layer has four matrices of attention and an MLP, all with biases, and two norms; the merger two and one."""
        width, inner = self.width, self.inner
        norm = self.norm_vectors * width
        mlp = self.mlp_matrices * width * inner + (self.mlp_matrices - 1) * inner + width
        layer = (4 * width**2 + 4 * width) + mlp + 2 * norm
        return self.patch_values * width + self.depth * layer + norm + self.count_merger()

    def count_merger(self) -> int:
        """Parameters of a merger without its norm."""
        return (self.merged**2 + self.merged) + (self.merged * self.out + self.out)

    def count_flops(self, patches: int) -> float:
        """FLOPs of a forward pass on a picture of so many patches."""
        width = self.width
        weights = self.patch_values * width
        weights += self.depth * (4 * width**2 + self.mlp_matrices * width * self.inner)
        # A merger works on several patches at once, so a patch costs that much less.
        mergers = self.mergers * (self.merged**2 + self.merged * self.out) / self.spatial_merge_size**2
        return float(2 * (weights + mergers) * patches + 4 * width * patches * self.count_seen(patches))


class NamedTower(Tower):
    """One whose config names its sizes so."""

    hidden_size: Size
    intermediate_size: Size
    out_hidden_size: Size

    @property
    def width(self) -> int:
        return self.hidden_size

    @property
    def inner(self) -> int:
        return self.intermediate_size

    @property
    def out(self) -> int:
        return self.out_hidden_size


class WindowTower(NamedTower):
    """Qwen2.5-VL's; `window_size` in px."""

    mlp_matrices = 3
    norm_vectors = 1

    window_size: Size
    fullatt_block_indexes: tuple[int, ...]

    def count_seen(self, patches: int) -> int:
        everywhere = len(self.fullatt_block_indexes)
        window = min((self.window_size // self.patch_size) ** 2, patches)
        return everywhere * patches + (self.depth - everywhere) * window


class FullTower(Tower):
    """Qwen2-VL's."""

    mlp_matrices = 2
    norm_vectors = 2

    embed_dim: Size
    mlp_ratio: Size
    hidden_size: Size

    @property
    def width(self) -> int:
        return self.embed_dim

    @property
    def inner(self) -> int:
        return self.embed_dim * self.mlp_ratio

    @property
    def out(self) -> int:
        return self.hidden_size

    def count_seen(self, patches: int) -> int:
        return self.depth * patches


class DeepTower(NamedTower):
    """Qwen3-VL's: what layers `deepstack_visual_indexes` give is merged, too, for the language model's first layers.

    Its patches are embedded with a bias. The further mergers have their norm behind the merging.
    """

    mlp_matrices = 2
    norm_vectors = 2

    num_position_embeddings: Size
    deepstack_visual_indexes: tuple[int, ...]

    @property
    def mergers(self) -> int:
        return 1 + len(self.deepstack_visual_indexes)

    def count_seen(self, patches: int) -> int:
        return self.depth * patches

    def count_parameters(self) -> int:
        further = self.norm_vectors * self.merged + self.count_merger()
        embedded = (1 + self.num_position_embeddings) * self.width
        return super().count_parameters() + embedded + (self.mergers - 1) * further
