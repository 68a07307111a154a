"""Encoders of pictures that take no time, and note what they are asked for."""

import numpy as np
import torch


class Brightness:
    """The mean of each color; `encoded` notes how many pictures each call has had."""

    dim = 3

    def __init__(self, details="", weights=None, device="cpu"):
        self.about = {}
        self.name, self.made_of, self.encoded = "brightness" + f":{details}" * bool(details), (weights, device), []

    def prepare(self, item):
        return torch.from_numpy(np.array(item, dtype=np.float32) / 255).mean(dim=(0, 1))

    def encode(self, batch):
        self.encoded.append(len(batch))
        return batch


class BrightnessOfWords(Brightness):
    """The same, which embeds words too, by their lengths."""

    def encode_text(self, texts):
        return torch.tensor([[len(text), 0.0, 1.0] for text in texts])
