"""A TorchScript file with the layout and signature of FID's Inception, and random weights."""

import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Stand(nn.Module):
    """Two convolutions, 2048 pooled features, and a head of 1008 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 9, 8), nn.ReLU(), nn.Conv2d(16, 2048, 5, 8), nn.AdaptiveAvgPool2d(1)
        )
        self.output = nn.Linear(2048, 1008)

    def forward(
        self,
        img: Tensor,
        return_features: bool = False,
        use_fp16: bool = False,
        no_output_bias: bool = False,
    ) -> Tensor:
        """TensorFlow 1's bilinear resize, then features or probabilities: bytes in, no softmax."""
        n, _, height, width = img.shape
        theta = torch.eye(2, 3)
        theta[0, 2] += 1.0 / width - 1.0 / 299
        theta[1, 2] += 1.0 / height - 1.0 / 299
        grid = F.affine_grid(theta.unsqueeze(0).repeat(n, 1, 1), [n, 3, 299, 299], False)
        x = F.grid_sample(img.float(), grid, "bilinear", "border", False)
        features = self.layers((x - 128) / 128).view(n, 2048)
        if return_features:
            return features
        if no_output_bias:
            return F.softmax(F.linear(features, self.output.weight), dim=1)
        return F.softmax(self.output(features), dim=1)


def save_stand(folder: Path) -> Path:
    """Writes the file under the name that clean-fid looks for."""
    torch.manual_seed(0)
    net = Stand().eval()
    with torch.no_grad():
        net.output.bias.normal_()  # a bias that must be seen where it is used
        net.output.weight.mul_(20)
    path = folder / "inception-2015-12-05.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.jit.script(net).save(str(path))
    return path
