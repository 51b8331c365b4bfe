"""An export to the Hugging Face hub: a private repository unless asked otherwise, the folder as one commit.

    folder -> name, login, no code in it -> create_repo -> upload_folder -> address

The token is the environment's or that of `hf auth login`; it is never asked for, shown or stored.  What tells of this
machine - export.json, merge.json, hidden files - stays here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.contract.errors import UserError

Progress = Callable[[str, float | None], None]
REPO = re.compile(r"([A-Za-z0-9][\w.-]{0,95}/)?[A-Za-z0-9][\w.-]{0,95}")
KEPT_HERE = ["export.json", "merge.json", ".*", "*.py", "*.bin", "*.pt", "*.pth", "*.pkl"]


def push_folder(folder: Path, repo: str, *, public: bool, update: bool, progress: Progress) -> str:
    """Upload an export and return its address.

    Args:
        folder: The export, with its card.
        repo: `name` or `owner/name`.
        public: Whether everybody may see it.
        update: Whether the repository may be there already.
        progress: Told what is being done.

    Raises:
        UserError: If the hub refuses or cannot be reached.
    """
    import httpx2 as httpx  # what huggingface_hub 2 is built on
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    if not (folder / "README.md").is_file():
        raise UserError(f"{folder} is no export: it has no model card.", fix="export it again.")
    if not REPO.fullmatch(repo) or ".." in repo or "--" in repo:
        raise UserError(f"`{repo[:80]}` is no name for a repository.", fix="write `name` or `owner/name`.")
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        raise UserError("HF_HUB_OFFLINE is set, so nothing can be pushed.", fix="unset it.")
    if not get_token():
        fix = "run `hf auth login` in a terminal of this machine, or set HF_TOKEN before the start."
        raise UserError("Nobody is logged in at the hub on this machine.", fix=fix)
    api: Any = HfApi()
    try:
        progress("making the repository", 0.1)
        made = api.create_repo(repo, private=not public, exist_ok=update)
        progress(f"uploading {folder.name}", 0.2)
        api.upload_folder(
            repo_id=made.repo_id, folder_path=folder, ignore_patterns=KEPT_HERE, commit_message=f"Add {folder.name}"
        )
    except HFValidationError as error:
        raise UserError(f"`{repo}` is no name for a repository: {error}", fix="choose another name.") from None
    except HfHubHTTPError as error:
        raise _refusal(error, repo) from None
    except (httpx.HTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise UserError(f"The Hugging Face hub could not be reached: {reason}.", fix="check the network.") from None
    progress("done", 1.0)
    return str(made)


def _refusal(error: Any, repo: str) -> UserError:
    """Say in plain words why the hub said no."""
    status = getattr(error.response, "status_code", 0)
    if status == 401:
        return UserError("The hub does not accept this machine's login.", fix="run `hf auth login` again.")
    if status == 403:
        fix = "use a token with write access, and a name under your own account or an organization of yours."
        return UserError(f"This login may not write to {repo}.", fix=fix)
    if status == 409:
        fix = "choose another name, or push with --update to add to it."
        return UserError(f"There is a repository {repo} already.", fix=fix)
    if status == 429:
        return UserError("The hub has had too many requests from here.", fix="try again in some minutes.")
    said = str(getattr(error, "server_message", "") or error).strip().splitlines()[0][:200]
    return UserError(f"The hub refused with status {status}: {said}.", fix="try again later.")
