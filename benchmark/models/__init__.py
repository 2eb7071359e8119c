"""Networks of the clients: one architecture, one file; what they have in common is in draw.py and checkpoint.py.

An image in [0, 1] goes in, class logits come out.
"""

from benchmark.models.cnn6 import CNN6
from benchmark.models.convnet import ConvNet
from benchmark.models.draw import Model
from benchmark.models.geiping_lenet import GeipingLeNet
from benchmark.models.lenet import LeNet
from benchmark.models.lenet5 import LeNet5
from benchmark.models.mlp import MLP
from benchmark.models.resnet import ResNet, ResNet18, ResNet20, ResNet32, ResNet44, ResNet56
from benchmark.models.vgg import VGG11
from benchmark.models.vit import ViT

__all__ = [
    "CNN6",
    "MLP",
    "VGG11",
    "ConvNet",
    "GeipingLeNet",
    "LeNet",
    "LeNet5",
    "Model",
    "ResNet",
    "ResNet18",
    "ResNet20",
    "ResNet32",
    "ResNet44",
    "ResNet56",
    "ViT",
]
