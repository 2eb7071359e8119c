"""Private data: the images that a client holds and an attacker wants."""

from datamodules.access import open_data, take_victims
from datamodules.base import PrivateData
from datamodules.cifar import CIFAR10, CIFAR10JPEG, CIFAR100
from datamodules.embedded import Digits, Photos
from datamodules.errors import DataError
from datamodules.folder import LFW, ImageFolder
from datamodules.mnist import MNIST, FashionMNIST

__all__ = [
    "CIFAR10",
    "CIFAR10JPEG",
    "CIFAR100",
    "LFW",
    "MNIST",
    "DataError",
    "Digits",
    "FashionMNIST",
    "ImageFolder",
    "Photos",
    "PrivateData",
    "open_data",
    "take_victims",
]
