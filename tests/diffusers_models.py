"""Small models made by the real diffusers, and the configurations of the published ones."""

from pathlib import Path
from typing import Any

import torch

IMAGENET64: dict[str, Any] = {
    "sample_size": 64,
    "layers_per_block": 3,
    "num_class_embeds": 1000,
    "block_out_channels": [192, 384, 576, 768],
    "attention_head_dim": 64,
    "down_block_types": ["ResnetDownsampleBlock2D", *["AttnDownBlock2D"] * 3],
    "up_block_types": [*["AttnUpBlock2D"] * 3, "ResnetUpsampleBlock2D"],
    "resnet_time_scale_shift": "scale_shift",
    "attn_norm_num_groups": 32,
    "downsample_type": "resnet",
    "upsample_type": "resnet",
}
LSUN256: dict[str, Any] = {
    "sample_size": 256,
    "layers_per_block": 2,
    "block_out_channels": [256, 256, 512, 512, 1024, 1024],
    "attention_head_dim": 64,
    "down_block_types": [*["ResnetDownsampleBlock2D"] * 3, *["AttnDownBlock2D"] * 3],
    "up_block_types": [*["AttnUpBlock2D"] * 3, *["ResnetUpsampleBlock2D"] * 3],
    "downsample_type": "resnet",
    "upsample_type": "resnet",
}
CIFAR10: dict[str, Any] = {
    "sample_size": 32,
    "block_out_channels": [128, 256, 256, 256],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "freq_shift": 1,
    "flip_sin_to_cos": False,
    "norm_eps": 1e-6,
    "downsample_padding": 0,
    "attention_head_dim": None,
}
SMALL = {
    "imagenet64": {
        **IMAGENET64,
        "sample_size": 16,
        "layers_per_block": 1,
        "num_class_embeds": 5,
        "block_out_channels": [32, 64, 96],
        "attention_head_dim": 32,
        "down_block_types": ["ResnetDownsampleBlock2D", *["AttnDownBlock2D"] * 2],
        "up_block_types": [*["AttnUpBlock2D"] * 2, "ResnetUpsampleBlock2D"],
    },
    "lsun256": {
        **LSUN256,
        "sample_size": 16,
        "layers_per_block": 1,
        "block_out_channels": [32, 32, 64],
        "attention_head_dim": 32,
        "down_block_types": [*["ResnetDownsampleBlock2D"] * 2, "AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D", *["ResnetUpsampleBlock2D"] * 2],
    },
    "cifar10": {
        **CIFAR10,
        "sample_size": 16,
        "layers_per_block": 1,
        "block_out_channels": [32, 64, 64],
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    },
    "tutorial": {
        "sample_size": [8, 8],
        "in_channels": 1,
        "out_channels": 1,
        "num_class_embeds": 10,
        "layers_per_block": 1,
        "block_out_channels": [16, 32],
        "norm_num_groups": 8,
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    },
    "no-attention": {
        "sample_size": 8,
        "block_out_channels": [32, 64],
        "down_block_types": ["DownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "UpBlock2D"],
        "add_attention": False,
    },
}


def unet(name: str) -> Any:
    """diffusers' network with random weights, one for each name."""
    from diffusers import UNet2DModel

    torch.manual_seed(len(name))
    return UNet2DModel(**SMALL[name]).eval()


def save(folder: Path, name: str, scheduler: Any, **options: Any) -> Any:
    """Saves a pipeline; returns its network."""
    from diffusers import CMStochasticIterativeScheduler, ConsistencyModelPipeline, DDIMPipeline

    network = unet(name)
    consistency = isinstance(scheduler, CMStochasticIterativeScheduler)
    pipeline = ConsistencyModelPipeline if consistency else DDIMPipeline
    pipeline(unet=network, scheduler=scheduler).save_pretrained(folder, **options)
    return network
