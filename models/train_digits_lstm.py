"""Train digits_lstm.onnx: one LSTM layer that reads an image row by row, classifier on its last state."""

from __future__ import annotations

import torch
from digits import main
from torch import nn


class DigitsLstm(nn.Module):
    """Eight steps of eight pixels through one LSTM."""

    def __init__(self, hidden: int = 64) -> None:
        """`hidden`: size of the state."""
        super().__init__()
        self.lstm = nn.LSTM(8, hidden)
        self.classifier = nn.Linear(hidden, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """[batch, 1, 8, 8] -> [batch, 10]"""
        states, _ = self.lstm(image.reshape(-1, 8, 8).transpose(0, 1))
        logits: torch.Tensor = self.classifier(states[-1])
        return logits


if __name__ == "__main__":
    main(
        "digits_lstm",
        DigitsLstm,
        epochs=60,
        rate=1e-2,
        decay=1e-2,
        keep_batch_norm=False,
        description=__doc__,
    )
