"""Models on disk: config.json and model.safetensors in a folder. Folders of format 3 are read too.

Nothing is unpickled. Format 4 (0.2) nests the configuration in groups and gives parameters their names of today.
"""

import dataclasses
import json
import re
import warnings
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from locdiff import options
from locdiff.errors import InputError
from locdiff.files import atomic_path, canonical_encoder, write_json
from locdiff.model.config import ModelConfig

FORMAT_VERSION = 4
RENAMED = {"shift": "snr_shift", "pure_noise": "p_pure_noise", "zoom_cells": "cells", "solver": "sampler"}  # 3 to 4
RENAMED_TENSORS = (  # the same, of parameters and buffers
    (r"\bnetwork\.see\.", "network.whiten."),
    (r"\bdeeper\.", "refinements."),
    (r"\b(refinements\.\d+)\.cells$", r"\1.cell_id"),
    (r"\b(refinements\.\d+)\.looks\.", r"\1.cell_in."),
    (r"\b(refinements\.\d+)\.own_out$", r"\1.cell_out"),
)


def save(model, folder: Path | str) -> None:
    """Write the model's config.json and model.safetensors into `folder`, each whole or not at all."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", {"format_version": FORMAT_VERSION} | dataclasses.asdict(model.config))
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    with atomic_path(folder / "model.safetensors") as path:
        save_file(state, path)


def load(make, name: Path | str, device=None, local_files_only: bool = False):
    """Return the model make(config) in the folder `name`, ready for prediction.

    `device` is a GPU by default, if there is one. Where there is no such folder, OWNER/NAME is a model on the Hugging
    Face Hub, which is downloaded once; with `local_files_only` only what was downloaded before is looked for. Raises
    InputError if there is no such model, or if its files are missing, damaged or of another version.
    """
    folder = find_model(name, local_files_only)
    model, path = make(read_config(folder)), folder / "model.safetensors"
    try:
        model.load_state_dict(rename_tensors(load_file(path)))
    except FileNotFoundError:
        raise InputError(f"{path} is missing: has this run been trained?") from None
    except (RuntimeError, safetensors.SafetensorError) as error:
        raise InputError(f"{path} does not fit its config.json or is damaged: {error}") from None
    there, wanted = len(model.refinements) + 1, model.config.refinement.levels
    if 1 < there < wanted:
        warnings.warn(
            f"{folder}: {there} of {wanted} levels are there: either its training has not ended "
            "(python -m locdiff.train --resume), or its locations are too few",
            stacklevel=3,
        )
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return model.to(device).eval()


def find_model(name: Path | str, local_files_only: bool = False) -> Path:
    """Return the folder of that name, or else that of the downloaded model OWNER/NAME of the Hugging Face Hub."""
    owner, _, rest = str(name).partition("/")
    if Path(name).is_dir() or not rest or "/" in rest or Path(owner).is_dir() or owner in ("", "~"):
        return Path(name)
    try:
        from huggingface_hub import snapshot_download

        wanted = ["config.json", "model.safetensors"]
        return Path(snapshot_download(str(name), allow_patterns=wanted, local_files_only=local_files_only))
    except (OSError, ValueError) as error:  # no network, no such model, no such name
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{name} is neither a folder nor a model that can be had from the Hugging Face Hub: {reason}; give the "
            "folder of a training run"
        ) from None


def read_config(folder: Path | str) -> ModelConfig:
    """Return the ModelConfig in folder/config.json. Raises InputError if it is missing, damaged or unknown."""
    path = Path(folder) / "config.json"
    try:
        values = json.loads(path.read_text())
        version = values.pop("format_version")
    except FileNotFoundError:
        raise InputError(f"{path} is missing: give the folder of a training run") from None
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is no model configuration ({error!r})") from None
    if version not in (3, FORMAT_VERSION):
        raise InputError(f"{path} has format version {version}, this program reads versions 3 and {FORMAT_VERSION}")
    try:
        return config_from_record(values)
    except TypeError as error:
        raise InputError(f"{path} holds settings that do not fit: {error}") from None


def config_from_record(record: dict) -> ModelConfig:
    """Return the ModelConfig of a record, nested, or flat as in format 3. Raises TypeError for unknown names."""
    if "network" in record:
        return options.from_record(ModelConfig, record)
    values: dict[str, Any] = {RENAMED.get(name) or name: value for name, value in record.items()}
    values["encoder"] = canonical_encoder(values.get("encoder", "unknown"))
    return options.nest(ModelConfig, values)


def rename_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors by their names of today, those of format 3 being renamed."""
    return {rename_tensor(name): tensor for name, tensor in tensors.items()}


def rename_tensor(name: str) -> str:
    """Return a parameter's name of today for its name in format 3; today's names stay."""
    for pattern, new in RENAMED_TENSORS:
        name = re.sub(pattern, new, name)
    return name
