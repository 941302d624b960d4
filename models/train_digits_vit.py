"""Train digits_vit.onnx: a small vision transformer, 2 x 2 patches, pre-norm blocks, mean over 16 tokens."""

from __future__ import annotations

import torch
from digits import main
from torch import nn

TOKENS = 16


class Block(nn.Module):
    """One pre-norm transformer block: attention, then a two-layer GELU network, both residual."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        """`width`: of a token; `hidden`: of the GELU layer."""
        super().__init__()
        self.heads, self.width, self.scale = heads, width, (width // heads) ** -0.5
        self.norm1 = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.project = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.expand = nn.Linear(width, hidden)
        self.gelu = nn.GELU()
        self.contract = nn.Linear(hidden, width)

    def split(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, tokens, width] -> [batch, heads, tokens, width / heads]"""
        return x.reshape(-1, TOKENS, self.heads, self.width // self.heads).transpose(1, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, tokens, width] -> [batch, tokens, width]"""
        y = self.norm1(x)
        query, key, value = self.split(self.query(y)), self.split(self.key(y)), self.split(self.value(y))
        attention = torch.softmax(query @ key.transpose(-2, -1) * self.scale, dim=-1)
        x = x + self.project((attention @ value).transpose(1, 2).reshape(-1, TOKENS, self.width))
        result: torch.Tensor = x + self.contract(self.gelu(self.expand(self.norm2(x))))
        return result


class DigitsVit(nn.Module):
    """Patch embedding with learned positions, `blocks` transformer blocks, classifier on the mean token."""

    def __init__(self, width: int = 64, heads: int = 4, hidden: int = 128, blocks: int = 3) -> None:
        """`width`: of a token; `hidden`: of the GELU layers."""
        super().__init__()
        self.width = width
        self.patch = nn.Conv2d(1, width, kernel_size=2, stride=2)
        self.position = nn.Parameter(torch.randn(1, TOKENS, width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, heads, hidden) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """[batch, 1, 8, 8] -> [batch, 10]"""
        x = self.patch(image).reshape(-1, self.width, TOKENS).transpose(1, 2) + self.position
        for block in self.blocks:
            x = block(x)
        logits: torch.Tensor = self.classifier(self.norm(x).mean(dim=1))
        return logits


if __name__ == "__main__":
    main(
        "digits_vit", DigitsVit, epochs=150, rate=2e-3, decay=5e-2, keep_batch_norm=False, description=__doc__
    )
