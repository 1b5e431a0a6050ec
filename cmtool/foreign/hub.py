"""Models of the Hugging Face Hub by name: fetches the files of a diffusers directory, once."""

import importlib
import re
from pathlib import Path
from typing import Any

from cmtool import recipe as recipes
from cmtool import shipped
from cmtool.data.places import offline
from cmtool.errors import CheckpointError
from cmtool.foreign.diffusers import WEIGHTS

_CONFIGS = ("model_index.json", "config.json", "scheduler_config.json")
_FOLDERS = ("", "unet/", "scheduler/")


def is_name(text: str) -> bool:
    """Whether a text names a model of the Hub, OWNER/NAME, and no file or folder here.

    Example:
        >>> is_name("openai/diffusers-cd_imagenet64_l2"), is_name("weights/ct_cat256.pt")
        (True, False)
        >>> is_name("shipped/digits"), is_name("cifar10-cpu/dsm")
        (False, False)
    """
    if re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", text) is None:
        return False
    # A run that is not there is no model of somebody called "runs"; nor is what comes with cmtool,
    # be it a model or a recipe, by whose name a model that comes with it tells its teacher.
    if text.startswith(("runs/", shipped.PREFIX)) or text in recipes.names():
        return False
    if Path(text).suffix in (".pt", ".pkl", ".safetensors", ".bin"):
        return False
    return not Path(text).exists() and not Path(text).parent.exists()


def fetch(name: str) -> Path:
    """The folder of a model of the Hub, fetched now or before.

    Only configurations and one set of weights are fetched: the first of `WEIGHTS` that is there.
    With HF_HUB_OFFLINE or CMTOOL_OFFLINE set, nothing is asked of the network.

    Raises:
        CheckpointError: It cannot be had.
    """
    try:
        hub = importlib.import_module("huggingface_hub")
        constants = importlib.import_module("huggingface_hub.constants")
    except ImportError:
        raise CheckpointError(
            f"there is no path '{name}', and to fetch a model of that name from the Hub takes "
            f"huggingface_hub",
            "pip install 'cmtool[hub]', or give the path of a folder",
        ) from None
    without_network = constants.HF_HUB_OFFLINE or offline()
    try:
        if without_network:
            return Path(hub.snapshot_download(name, local_files_only=True))
        return Path(hub.snapshot_download(name, allow_patterns=_wanted(hub, name)))
    except Exception as error:  # the library has a name for every way in which a network fails
        if without_network:
            raise CheckpointError(
                f"there is no path '{name}', and no model of that name was fetched before "
                f"(HF_HUB_OFFLINE or CMTOOL_OFFLINE is set)",
                f"on a machine with a network: hf download {name}",
            ) from None
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"there is no path '{name}', and the Hub gives no model of that name: {reason}",
            "check the name, or download it and give the folder",
        ) from None


def _wanted(hub: Any, name: str) -> list[str]:
    """The files to fetch of a model."""
    there = set(hub.HfApi().list_repo_files(name))
    wanted = [folder + config for folder in _FOLDERS for config in _CONFIGS]
    for folder in ("unet/", ""):
        best = next((weights for weights in WEIGHTS if folder + weights in there), None)
        if best is not None:
            wanted.append(folder + best)
            if best.endswith(".json"):
                half = ".fp16" if ".fp16." in best else ""
                wanted.append(f"{folder}diffusion_pytorch_model{half}-*.safetensors")
            break
    return [file for file in wanted if file in there or "*" in file]
