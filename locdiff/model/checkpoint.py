"""Models on disk: config.json and model.safetensors in a folder. Folders of formats 3 to 5 are read too.

Nothing is unpickled. Format 4 (0.2) nests the configuration in groups and gives parameters their names of today.
Format 5 adds the prior and the calibration, format 6 the prior's degrees above the network's.
"""

import dataclasses
import re
import tempfile
import warnings
from pathlib import Path
from typing import Any, Self

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from locdiff import options
from locdiff.devices import pick_device
from locdiff.errors import InputError
from locdiff.files import atomic_path, canonical_encoder, read_json, write_json
from locdiff.model.card import model_card
from locdiff.model.config import ModelConfig
from locdiff.model.hub import find_model, upload

FORMAT_VERSION = 6
RENAMED = {"shift": "snr_shift", "pure_noise": "p_pure_noise", "zoom_cells": "cells", "solver": "sampler"}  # 3 to 4
RENAMED_TENSORS = (  # the same, of parameters and buffers
    (r"\bnetwork\.see\.", "network.whiten."),
    (r"\bdeeper\.", "refinements."),
    (r"\b(refinements\.\d+)\.cells$", r"\1.cell_id"),
    (r"\b(refinements\.\d+)\.looks\.", r"\1.cell_in."),
    (r"\b(refinements\.\d+)\.own_out$", r"\1.cell_out"),
    (r"^calibration\.", "objective.calibration."),
)


class PretrainedModel(nn.Module):
    """A module made of a ModelConfig that is kept in folders, and on the Hugging Face Hub by the names of its methods
    and arguments there (those of `huggingface_hub.ModelHubMixin`)."""

    config: ModelConfig
    refinements: Any

    def save_pretrained(self, save_directory: Path | str) -> None:
        """Write config.json and model.safetensors into a folder, each whole or not at all."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "config.json", {"format_version": FORMAT_VERSION} | dataclasses.asdict(self.config))
        state = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        with atomic_path(folder / "model.safetensors") as path:
            save_file(state, path)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Path | str, device=None, *, force_download: bool = False,
        token: str | bool | None = None, cache_dir: Path | str | None = None, local_files_only: bool = False,
        revision: str | None = None,
    ) -> Self:  # fmt: skip
        """Return the model in a folder, ready for prediction.

        `device` is a GPU by default, if there is one. Where there is no such folder, OWNER/NAME is a model on the
        Hugging Face Hub, which is downloaded once; with `local_files_only` only what was downloaded before is looked
        for. Raises InputError if there is no such model or device, or if its files are missing, damaged or of another
        version.
        """
        device, folder = pick_device(device), find_model(
            pretrained_model_name_or_path, force_download=force_download, token=token, cache_dir=cache_dir,
            local_files_only=local_files_only, revision=revision,
        )  # fmt: skip
        return _load(cls, folder).to(device).eval()

    def push_to_hub(
        self, repo_id: str, *, commit_message: str = "Add the model", private: bool | None = None,
        token: str | None = None, branch: str | None = None, create_pr: bool | None = None,
    ) -> str:  # fmt: skip
        """Upload the model with a card, in which its data and scores are still to be filled in, to OWNER/NAME on the
        Hugging Face Hub; return the address. The command `publish` writes the card of a run.

        Raises InputError as `hub.upload` does.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            model_card(repo_id, self.config).save(Path(folder) / "README.md")
            return upload(Path(folder), repo_id, commit_message, private, token, branch, create_pr)


def _load(make, folder):
    """The model make(config) in a folder."""
    config = read_config(folder)
    try:
        model = make(config)
    except (MemoryError, RuntimeError) as error:
        reason = (str(error).splitlines() or ["too little memory"])[0]
        raise InputError(f"{folder / 'config.json'} describes a model that cannot be made: {reason}") from None
    tensors = calibration_of(model) | _read_tensors(folder / "model.safetensors")
    _check_tensors(tensors, model, folder / "model.safetensors")
    model.load_state_dict(tensors)
    there, wanted = len(model.refinements) + 1, model.config.refinement.levels
    if 1 < there < wanted:
        warnings.warn(
            f"{folder}: {there} of {wanted} levels are there: either its training has not ended "
            "(python -m locdiff.train --resume), or its locations are too few",
            stacklevel=3,
        )
    return model


def _read_tensors(path):
    """The tensors in a file, by their names of today."""
    try:
        with open(path, "rb"):  # safetensors says of a file that it must not read that there is none
            return rename_tensors(load_file(path))
    except FileNotFoundError:
        raise InputError(f"{path} is missing: has this run been trained?") from None
    except (OSError, RuntimeError, KeyError, safetensors.SafetensorError) as error:
        raise InputError(f"{path} cannot be read or is damaged: {error}") from None


def _check_tensors(tensors, model, path):
    """Raise InputError unless these are tensors that the model can have: names, shapes, kinds, values, ids of cells."""
    wanted = model.state_dict()
    for name in sorted(wanted.keys() ^ tensors.keys()):
        has = "lacks" if name in wanted else "has in addition"
        raise InputError(f"{path} does not fit its config.json: it {has} {name}")
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape or tensor.is_floating_point() != wanted[name].is_floating_point():
            one, other = (f"{tuple(t.shape)} of {str(t.dtype)[6:]}" for t in (tensor, wanted[name]))
            raise InputError(f"{path} does not fit its config.json: {name} is {one}, and should be {other}")
        if not torch.isfinite(tensor).all():
            raise InputError(f"{path} is damaged: {name} holds NaN or infinity; take an earlier copy, or train again")
    for i, level in enumerate(model.refinements):
        cell_id, count = tensors[f"refinements.{i}.cell_id"], 12 * level.nside**2
        if len(cell_id) and not (cell_id[0] >= 0 and cell_id[-1] < count and (cell_id.diff() > 0).all()):
            raise InputError(f"{path} is damaged: refinements.{i}.cell_id must rise within 0..{count - 1}")


def read_config(folder: Path | str) -> ModelConfig:
    """Return the ModelConfig in folder/config.json. Raises InputError if it is missing, damaged or unknown."""
    path = Path(folder) / "config.json"
    if Path(folder).is_file():
        raise InputError(f"{folder} is a file: give the folder of a training run, which holds config.json")
    try:
        values = read_json(path)
        version = values.pop("format_version")
    except FileNotFoundError:
        raise InputError(f"{path} is missing: give the folder of a training run") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is no model configuration ({error!r})") from None
    if type(version) is not int or version not in range(3, FORMAT_VERSION + 1):
        raise InputError(f"{path} has format version {version}, this program reads versions 3 to {FORMAT_VERSION}")
    try:
        return config_from_record(values)
    except (TypeError, InputError) as error:
        raise InputError(f"{path} holds settings that do not fit: {error}") from None


def config_from_record(record: dict) -> ModelConfig:
    """Return the ModelConfig of a record, nested, or flat as in format 3. Raises TypeError for unknown names.

    Before format 6 the prior had the degrees of the network.
    """
    if "network" in record:
        found = options.from_record(ModelConfig, record)
    else:
        values: dict[str, Any] = {RENAMED.get(name) or name: value for name, value in record.items()}
        values["encoder"] = canonical_encoder(values.get("encoder", "unknown"))
        found = options.nest(ModelConfig, values)
    if "prior_l_max" in record.get("objective", {}):
        return found
    return dataclasses.replace(found, objective=dataclasses.replace(found.objective, prior_l_max=0))


def calibration_of(model) -> dict[str, Tensor]:
    """Return the buffers of a new model's calibration: those of models before format 5, which were not calibrated."""
    own = r"^objective\.calibration\.|^objective\.broad$|^refinements\.\d+\.(scale|prior|mean|spread)$"
    return {name: value for name, value in model.state_dict().items() if re.search(own, name)}


def rename_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors by their names of today, those of format 3 being renamed."""
    return {rename_tensor(name): tensor for name, tensor in tensors.items()}


def rename_tensor(name: str) -> str:
    """Return a parameter's name of today for its name in format 3; today's names stay."""
    for pattern, new in RENAMED_TENSORS:
        name = re.sub(pattern, new, name)
    return name
