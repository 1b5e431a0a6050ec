"""The data sets that have a name. Nothing heavy is imported here, so listing them costs nothing."""

DESCRIPTIONS: dict[str, str] = {
    "cifar10": "60,000 colour photographs, 32x32, 10 classes; downloaded if not found",
    "digits": "1,797 real handwritten digits, 8x8, 10 classes; inside the package",
    "imagenet64": "your own copy of ImageNet, cropped to 64x64 as OpenAI did, 1,000 classes",
    "lsun-bedroom": "your own copy of LSUN bedroom (lmdb or images), 256x256",
    "lsun-cat": "your own copy of LSUN cat (lmdb or images), 256x256",
    "mnist": "70,000 handwritten digits, 28x28, 10 classes; downloaded if not found",
}


def names() -> list[str]:
    """The names that `cmtool.data.catalog.open_data` knows, sorted."""
    return sorted(DESCRIPTIONS)
