"""`cmtool export --push OWNER/NAME`: sends an export to the Hugging Face Hub."""

import importlib
import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from cmtool.data.places import offline
from cmtool.errors import CheckpointError, RecipeError
from cmtool.workflows._export_place import CARD, REPORT, companions


def check_push(repo: str | None) -> None:
    """Checks that an export can be sent, before it is made.

    Raises:
        RecipeError: The name is none, the library is missing or the network is switched off.
    """
    if repo is None:
        return
    if re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", repo) is None:
        raise RecipeError(f"--push '{repo}' is no name of the Hub", "--push OWNER/NAME")
    if offline():
        raise RecipeError("--push needs a network, and CMTOOL_OFFLINE is set", "drop --push")
    if find_spec("huggingface_hub") is None:
        raise RecipeError(
            "--push needs huggingface_hub, which is not installed", "pip install 'cmtool[hub]'"
        )


def push(repo: str, target: Path, paths: Sequence[Path]) -> str:
    """Sends an export; a file's card becomes the repository's README.md.

    Returns:
        The commit's address.

    Raises:
        CheckpointError: The Hub refuses; the export itself is in its place.
    """
    hub = importlib.import_module("huggingface_hub")
    api = hub.HfApi()
    try:
        api.create_repo(repo, repo_type="model", exist_ok=True)
        said = f"Upload {target.name}, made by cmtool"
        if target.is_dir():
            return str(api.upload_folder(repo_id=repo, folder_path=target, commit_message=said))
        card, report = companions(target, folder=False)
        names = {card: CARD, report: REPORT}
        operations = [
            hub.CommitOperationAdd(names.get(path, path.name), str(path)) for path in paths
        ]
        return str(api.create_commit(repo, operations, commit_message=said))
    except Exception as error:  # the library has a name for every way in which a network fails
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"'{target}' is written, but the Hub did not take it: {reason}",
            "hf auth login, then the same command with --overwrite",
        ) from None
