"""Upload an exported model to the Hugging Face hub. What can be wrong is asked before anything is computed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage.errors import InputError, RunError, first_line


@dataclass(frozen=True)
class Destination:
    """A repository of the hub that may be written.

    Attributes:
        name: ``owner/name``.
        private: whether it is to be made so, where it is not there yet. None: as its owner's account says.
    """

    api: Any
    name: str
    private: bool | None


def destination(name: str, private: bool) -> Destination:
    """Where to upload to; nothing is made yet.

    Args:
        name: ``owner/name``, or a name among the repositories of whoever is logged in.

    Raises:
        InputError: no repository can have that name, nobody is logged in, who is may not write there, or the repository is there already
            and public though it is to be private.
    """
    from huggingface_hub import HfApi, constants, get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise InputError(f"--push {name}: {first_line(error)}") from None
    if constants.is_offline_mode():
        raise InputError("--push: HF_HUB_OFFLINE is set, so nothing can be uploaded; unset it")
    if get_token() is None:
        raise InputError("--push: nobody is logged in at the hub: run `hf auth login`, or set HF_TOKEN to a token that may write")
    api = HfApi()
    try:
        who = api.whoami()
    except Exception as error:  # huggingface_hub raises many kinds
        raise InputError(f"--push: the hub does not take the token, or cannot be reached: {first_line(error)}") from None
    name = name if "/" in name else f"{who['name']}/{name}"
    _require_right(who, name)
    if private and _is_public(api, name):
        raise InputError(
            f"--push {name}: the repository is there and public; make it private at the hub first, or leave out --private"
        )
    return Destination(api, name, True if private else None)


def _require_right(who: dict[str, Any], name: str) -> None:
    """Raises InputError: a token that reads only, or a repository of somebody else."""
    token = who.get("auth", {}).get("accessToken", {})
    if token.get("role") == "read":
        raise InputError(f"--push: the token {token.get('displayName', '')!r} may only read; log in with one that may write")
    owners = [who["name"], *(each["name"] for each in who.get("orgs", []))]
    if name.partition("/")[0] not in owners:
        raise InputError(f"--push {name}: you are logged in as {who['name']} and may write to: {', '.join(owners)}")


def _is_public(api: Any, name: str) -> bool:
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        return not api.repo_info(name).private
    except RepositoryNotFoundError:
        return False


def upload(folder: Path, to: Destination) -> str:
    """Upload a folder, in one commit; the address of the repository. Raises RunError: the hub refuses it; the folder stays."""
    from tutelage import console
    from tutelage.machines import SEAL

    try:
        with console.progress(f"uploading to {to.name}"):
            repository = to.api.create_repo(to.name, private=to.private, exist_ok=True)
            to.api.upload_folder(
                repo_id=to.name, folder_path=folder, commit_message="Exported by Tutelage", ignore_patterns=[SEAL, f"*/{SEAL}"]
            )
    except Exception as error:  # huggingface_hub raises many kinds
        raise RunError(f"{folder} was exported, but not uploaded to {to.name}: {first_line(error)}") from None
    return str(repository)
