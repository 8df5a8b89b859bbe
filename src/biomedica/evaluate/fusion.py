"""The fusion head: two streams of tokens that look at each other, and a classifier of answers.

After METER (Dou et al. 2022, "An empirical study of training end-to-end vision-and-language transformers",
arXiv:2111.02387). Each of its co-attention layers (the streams keep weights of their own) is self-attention, attention
to the other stream as it was before this layer, and a feed-forward net, each followed by dropout, the residual and a
norm.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from biomedica.evaluate.settings import FusionSettings
from biomedica.evaluate.tokens import Tokens

_TIMES = 4
"""Width of the feed-forward net by that of a token."""


class Fusion(nn.Module):
    """Tokens of pictures and questions -> scores of answers, (B, V) before a softmax.

    firsts   of the picture and the question: is the first token to be taken for the whole?
    """

    def __init__(
        self,
        widths: tuple[int, int],
        firsts: tuple[bool, bool],
        num_answers: int,
        settings: FusionSettings,
    ) -> None:
        super().__init__()
        width = settings.width
        self.image = _Stream(widths[0], settings, firsts[0])
        self.question = _Stream(widths[1], settings, firsts[1])
        self.classifier = nn.Sequential(
            nn.Linear(2 * width, 2 * width),
            nn.LayerNorm(2 * width),
            nn.GELU(),
            nn.Linear(2 * width, num_answers),
        )
        self.apply(_start)

    def forward(self, image: Tokens, question: Tokens) -> Tensor:
        x, y = self.question.enter(question), self.image.enter(image)
        for of_question, of_image in zip(self.question.layers, self.image.layers, strict=True):
            x, y = of_question(x, y), of_image(y, x)
        pooled = torch.cat([self.question.leave(x), self.image.leave(y)], dim=1)
        scores: Tensor = self.classifier(pooled)
        return scores


class _Stream(nn.Module):
    """What one modality has for itself: its way in, its layers, its way out."""

    def __init__(self, tower_width: int, settings: FusionSettings, has_first: bool) -> None:
        super().__init__()
        self._first = has_first and settings.pooling == "tower"
        self.project = nn.Linear(tower_width, settings.width)
        self.kind = nn.Embedding(1, settings.width)
        self.layers = nn.ModuleList(_Layer(settings) for _ in range(settings.layers))
        self.pool = nn.Linear(settings.width, settings.width)

    def enter(self, tokens: Tokens) -> Tokens:
        return Tokens(self.project(tokens.values) + self.kind.weight, tokens.mask)

    def leave(self, tokens: Tokens) -> Tensor:
        """(B, width)"""
        if self._first:
            whole = tokens.values[:, 0]
        else:
            mask = tokens.mask[:, :, None].to(tokens.values.dtype)
            whole = (tokens.values * mask).sum(dim=1) / mask.sum(dim=1)
        return torch.tanh(self.pool(whole))


class _Layer(nn.Module):
    """One co-attention layer of one stream."""

    def __init__(self, settings: FusionSettings) -> None:
        super().__init__()
        width = settings.width
        self.to_own = _Attention(settings)
        self.to_other = _Attention(settings)
        self.forward_net = nn.Sequential(
            nn.Linear(width, _TIMES * width), nn.GELU(), nn.Linear(_TIMES * width, width)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.drop = nn.Dropout(settings.dropout)

    def forward(self, own: Tokens, other: Tokens) -> Tokens:
        x = own.values
        x = self.norms[0](x + self.drop(self.to_own(x, Tokens(x, own.mask))))
        x = self.norms[1](x + self.drop(self.to_other(x, other)))
        x = self.norms[2](x + self.drop(self.forward_net(x)))
        return Tokens(x, own.mask)


class _Attention(nn.Module):
    """Of each token of `x` to all tokens of another sequence."""

    def __init__(self, settings: FusionSettings) -> None:
        super().__init__()
        width = settings.width
        self._heads, self._dropout = settings.heads, settings.dropout
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor, to: Tokens) -> Tensor:
        query, key, value = (
            each.unflatten(2, (self._heads, -1)).transpose(1, 2)
            for each in (self.query(x), self.key(to.values), self.value(to.values))
        )
        found = nn.functional.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=to.mask[:, None, None, :],
            dropout_p=self._dropout if self.training else 0.0,
        )
        out: Tensor = self.out(found.transpose(1, 2).flatten(2))
        return out


def _start(module: nn.Module) -> None:
    """BERT's initial weights, as METER's."""
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
