"""A CLIP of two small layers with random weights in a file, as a user's own weights would be."""

import json

import open_clip
import torch
from safetensors.torch import save_file

MODEL = "ViT-S-32-tiny"
CONFIG = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


def random_weights(folder):
    """Make MODEL known to open_clip by its name; return the file in `folder` with its random weights."""
    (folder / f"{MODEL}.json").write_text(json.dumps(CONFIG))
    open_clip.add_model_config(folder / f"{MODEL}.json")
    torch.manual_seed(0)
    save_file(open_clip.create_model(MODEL).state_dict(), folder / "random.safetensors")
    return folder / "random.safetensors"
