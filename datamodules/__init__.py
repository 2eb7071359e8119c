"""Private data: the images that a client holds and an attacker wants."""

from datamodules.base import DataError, PrivateData
from datamodules.cifar import CIFAR10, CIFAR10JPEG, CIFAR100
from datamodules.embedded import Digits, Photos
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
]
