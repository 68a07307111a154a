"""The Hugging Face Hub: a model's folder from there, and to there."""

import re
from pathlib import Path

from locdiff.errors import InputError

MODEL_FILES = ("config.json", "model.safetensors")
NAME = r"\w[\w.-]*/\w[\w.-]*"  # OWNER/NAME


def find_model(name: Path | str, **options) -> Path:
    """Return the folder of that name, or else that of the downloaded model OWNER/NAME of the Hugging Face Hub.

    The `options` are those of `huggingface_hub.snapshot_download`. Raises InputError if the model cannot be had.
    """
    owner, _, rest = str(name).partition("/")
    if Path(name).is_dir() or not rest or "/" in rest or Path(owner).is_dir() or owner in ("", "~"):
        return Path(name)
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(str(name), allow_patterns=list(MODEL_FILES), **options))
    except Exception as error:  # whatever huggingface_hub, or what it connects by, raises
        raise InputError(
            f"{name} is neither a folder nor a model that can be had from the Hugging Face Hub: {_first_line(error)}; "
            "give the folder of a training run"
        ) from None


def check_name(repo_id: str) -> None:
    """Raise InputError unless this names a model on the Hub: OWNER/NAME."""
    if not re.fullmatch(NAME, repo_id, re.ASCII):
        raise InputError(f"'{repo_id}' is no name on the Hugging Face Hub: give OWNER/NAME, such as me/my-model")


def check_token(token: str | None = None) -> None:
    """Raise InputError unless there is a token to write to the Hub with: this one, or that of the environment."""
    from huggingface_hub import get_token

    if not (token or get_token()):
        raise InputError("there is no token of the Hugging Face Hub: set HF_TOKEN, or log in by hf auth login")


def upload(
    folder: Path, repo_id: str, commit_message: str, private: bool | None = None, token: str | None = None,
    branch: str | None = None, create_pr: bool | None = None,
) -> str:  # fmt: skip
    """Upload the files of a folder in one commit to the model OWNER/NAME, which is made if there is none; return the
    address.

    Raises InputError for another name, without a token, without a network or where the Hub refuses, and if the model
    is to be `private` but is there already and public.
    """
    check_name(repo_id)
    check_token(token)
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        if private and not api.model_info(repo_id).private:
            raise InputError(f"{repo_id} is there already and public: make it private on the Hub, or choose a new name")
        return str(api.upload_folder(
            repo_id=repo_id, folder_path=folder, commit_message=commit_message, revision=branch, create_pr=create_pr
        ))  # fmt: skip
    except InputError:
        raise
    except Exception as error:  # whatever huggingface_hub, or what it connects by, raises
        raise InputError(
            f"cannot write to {repo_id} on the Hugging Face Hub: {_first_line(error)}; see that there is a network, "
            "and that the token (HF_TOKEN, or hf auth login) may write there"
        ) from None


def _first_line(error):
    """The first line of an error, and that of what caused it."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return f"{line} ({_first_line(error.__cause__)})" if error.__cause__ else line
