"""TimeSformer from scratch: the network, in the order in which the lessons build it.

Shapes: b clips, t frames, c colour channels, h and w rows and columns of the patch grid,
d embedding dimension, n tokens. Pixels are always height and width.

Paper: Bertasius, Wang, Torresani, "Is Space-Time Attention All You Need for Video
Understanding?", ICML 2021, arXiv 2102.05095 ("the paper" below).
"""

import math
from numbers import Integral
from typing import NamedTuple

import torch
from einops import rearrange, reduce, repeat
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

# Lesson 01 ------------------------------------------------------------------------------------


def as_pair(size):
    """A size in pixels as (height, width); a single whole number is the side of a square."""
    height, width = (size, size) if isinstance(size, Integral) else size
    return int(height), int(width)


def patch_grid(image_size, patch_size):
    """Rows and columns of the patch grid. ValueError when the patch size does not divide the frame."""
    height, width = image_size
    if height % patch_size or width % patch_size:
        raise ValueError(
            f"frames of {height} x {width} pixels cannot be cut into patches of {patch_size}"
        )
    return height // patch_size, width // patch_size


def to_patches(video, patch_size):
    """Cut every frame into square patches and lay each one out as a vector; loses nothing.

    Shapes: (b, t, c, height, width) -> (b, t, h, w, c * patch_size²). ValueError when the patch
    size does not divide the frame. Source: the paper, section 3, "Decomposition into patches".
    """
    patch_grid(video.shape[-2:], patch_size)
    return rearrange(
        video, "b t c (h ph) (w pw) -> b t h w (c ph pw)", ph=patch_size, pw=patch_size
    )


def smooth_embedding(length, dim, waves=4):
    """Position vectors in which neighbours are alike: random mixtures of a few slow cosines.

    Shapes: -> (length, dim), with a standard deviation of about 1. The slowest cosine turns half a
    circle over the whole length, the fastest `waves` half circles. Our choice: its size is
    what training needs, its smoothness does no harm (lesson 11). The paper starts from a pretrained
    image model's positions, and from zeros for time.
    """
    position = (torch.arange(length) + 0.5) / length
    cosines = torch.cos(math.pi * torch.arange(1, waves + 1) * position[:, None])  # (length, waves)
    return cosines @ torch.randn(waves, dim) / math.sqrt(waves / 2)


class VideoEmbedding(nn.Module):
    """Video to tokens: a linear map of each patch, plus where it is and when it is.

    Shapes: (b, t, c, height, width) -> patches (b, t, h, w, dim) and class token (b, dim).
    Source: the paper, equation 1, with the position split into space and time (section 4.4).
    """

    def __init__(self, image_size, num_frames, patch_size, dim, with_time=True):
        super().__init__()
        h, w = patch_grid(image_size, patch_size)
        self.patch_size = patch_size
        self.patches = nn.Linear(3 * patch_size**2, dim)
        self.cls = nn.Parameter(torch.randn(dim))
        rows, columns = smooth_embedding(h, dim), smooth_embedding(w, dim)
        self.space = nn.Parameter((rows[:, None] + columns) / math.sqrt(2))  # (h, w, dim)
        self.time = nn.Parameter(smooth_embedding(num_frames, dim, waves=2)) if with_time else None

    def forward(self, video):
        patches = self.patches(to_patches(video, self.patch_size))
        patches = patches + self.space  # (h, w, dim): the same in every clip and frame
        if self.time is not None:
            patches = patches + rearrange(self.time, "t d -> t 1 1 d")
        return patches, repeat(self.cls, "d -> b d", b=len(video))


# Lesson 02 ------------------------------------------------------------------------------------


def attention_weights(q, k):
    """Softmax over the keys of q kᵀ / √d: each query's row sums to 1.

    Shapes: (..., queries, d), (..., keys, d) -> (..., queries, keys).
    """
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    return scores.softmax(dim=-1)


def attend(q, k, v):
    """Scaled dot-product attention: softmax(q kᵀ / √d) v.

    Shapes: (..., queries, d), (..., keys, d), (..., keys, d) -> (..., queries, d).
    Source: Vaswani et al. 2017, equation 1; the paper, equations 5-7.
    """
    return attention_weights(q, k) @ v


class Attention(nn.Module):
    """Multi-head self-attention among the tokens of each group. It knows no space and no time.

    Shapes: (groups, n, dim) -> (groups, n, dim). ValueError when the heads do not divide dim.
    Source: the paper, equations 2-8.
    """

    def __init__(self, dim, heads, dropout=0.0):
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim {dim} cannot be split into {heads} heads of equal size")
        self.heads = heads
        self.qkv = nn.Linear(dim, dim * 3)
        self.out = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def split(self, x):
        """(groups, n, dim) -> queries, keys and values, (groups, heads, n, dim / heads) each."""
        qkv = self.qkv(x)  # (groups, n, 3 * dim)
        return rearrange(qkv, "g n (three heads d) -> three g heads n d", three=3, heads=self.heads)

    def weights(self, x):
        """Who looks at whom: (groups, n, dim) -> (groups, heads, queries, keys)."""
        q, k, _ = self.split(x)
        return attention_weights(q, k)

    def forward(self, x):
        q, k, v = self.split(x)
        heads = rearrange(attend(q, k, v), "g heads n d -> g n (heads d)")
        return self.dropout(self.out(heads))


# Lesson 04 ------------------------------------------------------------------------------------


class PreNorm(nn.Module):
    """Normalise each token, then call `fn`: `fn(LayerNorm(x))`.

    Shapes: (..., dim) -> whatever `fn` returns. Source: the paper, equations 2-4 and 9.
    """

    def __init__(self, dim, fn):
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.fn = fn

    def forward(self, x, *args, **kwargs):
        return self.fn(self.norm(x), *args, **kwargs)


# Lesson 05 ------------------------------------------------------------------------------------


class GEGLU(nn.Module):
    """Halve the last dimension into value and gate; return value * gelu(gate).

    Shapes: (..., 2 * dim) -> (..., dim). ValueError when the last dimension is odd.
    Source: Shazeer 2020, arXiv 2002.05202, section 2.
    """

    def forward(self, x):
        if x.shape[-1] % 2:
            raise ValueError(f"GEGLU needs a gate for every value, and {x.shape[-1]} is odd")
        value, gate = x.chunk(2, dim=-1)
        return value * F.gelu(gate)


# Lesson 06 ------------------------------------------------------------------------------------


class FeedForward(nn.Module):
    """The MLP of a transformer block. It works on each token alone.

    Shapes: (..., dim) -> (..., dim). `activation` is "geglu" (the course's default) or "gelu"
    (the plain MLP of the published weights). ValueError for any other. Source: the paper,
    equation 9; for the gated form Shazeer 2020, equation 6.
    """

    def __init__(self, dim, mult=4, dropout=0.0, activation="geglu"):
        super().__init__()
        if activation not in ("geglu", "gelu"):
            raise ValueError(f'activation is "geglu" or "gelu", not {activation!r}')
        gated = activation == "geglu"
        self.net = nn.Sequential(
            nn.Linear(dim, dim * mult * (2 if gated else 1)),
            GEGLU() if gated else nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(dim * mult, dim),
        )

    def forward(self, x):
        return self.net(x)


# Lesson 07 ------------------------------------------------------------------------------------


class AttentionStep(nn.Module):
    """Fold, attend, unfold, add: one `Step` with its weights and its skip connection.

    Shapes: patches (b, t, h, w, dim) and class token (b, dim) -> the same. Each group gets a
    copy of the class token; the copies' updates are averaged (as in the authors' released code).
    """

    def __init__(self, dim, heads, spec, dropout=0.0):
        super().__init__()
        self.spec = spec
        self.attention = PreNorm(dim, Attention(dim, heads, dropout))
        self.project = nn.Linear(dim, dim) if spec.extra else nn.Identity()
        if spec.extra:
            nn.init.zeros_(self.project.weight)
            nn.init.zeros_(self.project.bias)

    def forward(self, patches, cls):
        b, t, h, w, _ = patches.shape
        tokens = fold(patches, self.spec)  # (groups, n, dim)
        if self.spec.with_class:
            copies = repeat(cls, "b d -> (b g) 1 d", g=len(tokens) // b)
            tokens = torch.cat([copies, tokens], dim=1)  # (groups, 1 + n, dim)

        tokens = self.project(self.attention(tokens))

        if self.spec.with_class:
            copies, tokens = tokens[:, 0], tokens[:, 1:]
            cls = cls + reduce(copies, "(b g) d -> b d", "mean", b=b)
        return patches + unfold(tokens, self.spec, t, h, w), cls


class Block(nn.Module):
    """One transformer block: the attention steps of a scheme, then the feed-forward network.

    Shapes: patches (b, t, h, w, dim) and class token (b, dim) -> the same. The `last` block of a model
    leaves its patches as attention made them: behind it only the class token is read.
    Source: the paper, figure 1 and equations 6, 8, 9 and 11.
    """

    def __init__(self, dim, heads, steps, activation="geglu", mult=4, dropout=0.0, last=False):
        super().__init__()
        self.last = last
        self.steps = nn.ModuleList(AttentionStep(dim, heads, step, dropout) for step in steps)
        self.feed_forward = PreNorm(dim, FeedForward(dim, mult, dropout, activation))

    def forward(self, patches, cls):
        for step in self.steps:
            patches, cls = step(patches, cls)
        if not self.last:
            patches = patches + self.feed_forward(patches)
        return patches, cls + self.feed_forward(cls)


# Lesson 08 ------------------------------------------------------------------------------------


class Step(NamedTuple):
    """One attention of a scheme, as an einops pattern: "groups tokens".

    Axes in the first bracket are folded into the batch and never mix; axes after it attend to
    each other. `with_class`: the class token takes part. `extra`: an image ViT has no such step,
    so it ends in a linear map that starts at zero. `grid`: how the patch grid is cut before it is
    folded; i, j and k have length 2, so "(i h)" is two halves and "(h i)" is every second row.
    """

    pattern: str
    with_class: bool = True
    extra: bool = False
    grid: str = "b t h w"


SCHEMES = {
    "space": [Step("(b t) (h w)")],
    "joint": [Step("b (t h w)")],
    "divided": [Step("(b h w) t", with_class=False, extra=True), Step("(b t) (h w)")],
    "local+global": [
        Step("(b i j) (t h w)", grid="b t (i h) (j w)"),
        Step("(b i j k) (t h w)", grid="b (t i) (h j) (w k)", extra=True),
    ],
    "axial": [
        Step("(b h w) t", with_class=False, extra=True),
        Step("(b t h) w"),
        Step("(b t w) h", extra=True),
    ],
}


def axis_sizes(step, t, h, w):
    """The length of each axis in a step's pattern. ValueError when an odd length is to be halved."""
    uncut = step.grid.split()
    halved = [axis for axis in "thw" if axis not in uncut]
    sizes = dict(t=t, h=h, w=w)
    if any(sizes[axis] % 2 for axis in halved):
        raise ValueError(f"this attention step halves {' and '.join(halved)} of the patch grid, and "
                         f"{t} frames x {h} rows x {w} columns are not all even there")  # fmt: skip
    sizes |= {axis: sizes[axis] // 2 for axis in halved}
    return sizes | {part: 2 for part in "ijk" if part in step.grid}


def fold(patches, step):
    """Gather the tokens that may attend to each other: (b, t, h, w, d) -> (groups, n, d)."""
    sizes = axis_sizes(step, *patches.shape[1:4])
    return rearrange(patches, f"{step.grid} d -> {step.pattern} d", **sizes)


def unfold(tokens, step, t, h, w):
    """Put the tokens back in their places: (groups, n, d) -> (b, t, h, w, d)."""
    sizes = axis_sizes(step, t, h, w)
    return rearrange(tokens, f"{step.pattern} d -> {step.grid} d", **sizes)


# Lesson 09 ------------------------------------------------------------------------------------


class TimeSformer(nn.Module):
    """A video classifier made of attention over space and time.

    `image_size` is the side of a square frame or (height, width), in pixels. `forward(video)`
    takes (b, t, c, height, width) float32, normalised, and returns logits (b, num_classes);
    `forward_features(video)` returns (b, dim). ValueError for an unknown scheme, for sizes that
    the scheme cannot split, and for a clip of another size than the model's (see `resize_model`).
    Source: the paper, section 3.
    """

    def __init__(self, num_classes, image_size, num_frames, patch_size, dim, depth, heads,
                 scheme="divided", activation="geglu", mult=4, dropout=0.0):  # fmt: skip
        super().__init__()
        if scheme not in SCHEMES:
            raise ValueError(f"unknown scheme {scheme!r}; there are {', '.join(SCHEMES)}")
        height, width = as_pair(image_size)
        self.config = dict(num_classes=num_classes, image_size=(height, width), num_frames=num_frames,
                           patch_size=patch_size, dim=dim, depth=depth, heads=heads, scheme=scheme,
                           activation=activation, mult=mult, dropout=dropout)  # fmt: skip
        self.clip_shape = (num_frames, 3, height, width)
        self.per_frame = scheme == "space"  # frames meet only at the very end
        steps = SCHEMES[scheme]
        for step in steps:  # a clip that the scheme cannot split is an error now, not later
            axis_sizes(step, num_frames, *patch_grid((height, width), patch_size))
        with_time = not self.per_frame
        self.embedding = VideoEmbedding((height, width), num_frames, patch_size, dim, with_time)
        self.blocks = nn.ModuleList(
            Block(dim, heads, steps, activation, mult, dropout, last=number == depth - 1)
            for number in range(depth)
        )
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, num_classes)

    def forward_features(self, video):
        b, *shape = video.shape
        if tuple(shape) != self.clip_shape:
            raise ValueError(f"the model takes clips of (frames, channels, height, width) = "
                             f"{self.clip_shape}, got {tuple(shape)}; read videos at its size, or change it with resize_model")  # fmt: skip
        if self.per_frame:
            video = rearrange(video, "b t c height width -> (b t) 1 c height width")
        patches, cls = self.embedding(video)
        for block in self.blocks:
            patches, cls = block(patches, cls)
        return reduce(self.norm(cls), "(b t) d -> b d", "mean", b=b)  # t is 1 unless folded in

    def forward(self, video):
        return self.head(self.forward_features(video))


@torch.no_grad()
def resize_model(model, image_size, num_frames):
    """Adapt a model to clips of another size by interpolating its position embeddings.

    All other weights stay as they are; the model is changed in place and returned. The embeddings
    become new parameters, so make the optimiser afterwards. ValueError when the patch size does not
    divide the new image size, or the scheme cannot split the new patch grid; the model is then as it
    was. Source: Dosovitskiy et al. 2021, arXiv 2010.11929, section 3.2.
    """
    height, width = as_pair(image_size)
    grid = patch_grid((height, width), model.embedding.patch_size)
    for step in SCHEMES[model.config["scheme"]]:
        axis_sizes(step, num_frames, *grid)
    space = rearrange(model.embedding.space, "h w d -> 1 d h w")
    space = F.interpolate(space, grid, mode="bicubic")
    model.embedding.space = nn.Parameter(rearrange(space, "1 d h w -> h w d"))
    if not model.per_frame:
        time = rearrange(model.embedding.time, "t d -> 1 d t")
        time = F.interpolate(time, num_frames, mode="linear")
        model.embedding.time = nn.Parameter(rearrange(time, "1 d t -> t d"))
    model.clip_shape = (num_frames, 3, height, width)
    model.config |= dict(image_size=(height, width), num_frames=num_frames)
    return model


def count_parameters(model):
    """How many numbers the model learns; what is frozen does not count."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def multiply_adds(model, clips=1):
    """Multiply-adds of one forward pass of `clips` clips, counted in every matrix product.

    The paper's "TFLOPs" are these, with the last block's MLP counted for every token. Nothing is
    computed: the model runs on the meta device.
    """
    with torch.device("meta"):
        twin = TimeSformer(**model.config)
        twin.blocks[-1].last = False
        video = torch.empty(clips, *twin.clip_shape)
    with FlopCounterMode(display=False) as counter:
        twin(video)
    return counter.get_total_flops() // 2  # it counts a multiply-add as two operations


def attention_numbers(model, clips=1):
    """How many attention weights a training step keeps for its way back, over all blocks.

    One for each head, query and key. Nothing is computed: the tokens lie on the meta device.
    """
    sizes, numbers = model.config, 0
    h, w = patch_grid(sizes["image_size"], sizes["patch_size"])
    patches = torch.empty(clips, sizes["num_frames"], h, w, 1, device="meta")
    for step in SCHEMES[sizes["scheme"]]:
        groups, n, _ = fold(patches, step).shape
        numbers += groups * (n + step.with_class) ** 2  # with_class: one token more
    return numbers * sizes["heads"] * sizes["depth"]
