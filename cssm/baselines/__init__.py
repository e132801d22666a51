"""Models to compare with."""

from cssm.baselines.cnn import ConvNet
from cssm.baselines.hgru import HGRUCell, HGRUClassifier
from cssm.baselines.resnet import ResNet
from cssm.baselines.vit import ViT

__all__ = ["ConvNet", "HGRUCell", "HGRUClassifier", "ResNet", "ViT"]
