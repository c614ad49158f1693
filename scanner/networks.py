"""The two networks of the report: torchvision's DenseNet-121 and ResNet-101 with Dropout(0.5) and one logit on top.

Sources: Huang et al., Densely Connected Convolutional Networks, CVPR 2017; He et al., Deep Residual Learning for Image
Recognition, CVPR 2016; the top as in the report.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
import torchvision.models
from torch import Tensor, nn

from hemoscan.card import InputSpec, Model
from hemoscan.errors import CardError, StartError

DROPOUT = 0.5
TOPS = {"densenet121": "classifier", "resnet101": "fc"}
# The modules whose output, rectified, is pooled for the top.
LAST_FEATURES = {"densenet121": "features", "resnet101": "layer4"}
# A convolution's kernel: output channels, input channels, rows, columns.
KERNEL_DIMENSIONS = 4
MOST_INT8 = 127
SCALE_SUFFIX = "_scale"
# torchvision still loads DenseNet files with the names of its first release, such as denselayer1.norm.1.weight.
OLD_DENSENET_NAME = re.compile(
    r"^(.*denselayer\d+\.(?:norm|relu|conv))\.(\d\.(?:weight|bias|running_mean|running_var|num_batches_tracked))$"
)


class Head(nn.Sequential):
    """The classification head, in fp32 whatever the rest runs in: a bf16 logit has steps of 0.03 at 4, hence ties."""

    def forward(self, features: Tensor) -> Tensor:
        """Return logits of shape (n, 1) for pooled features of shape (n, channels)."""
        with torch.autocast(features.device.type, enabled=False):
            logits: Tensor = super().forward(features.float())  # type: ignore[no-untyped-call]
        return logits


class Classifier(nn.Module):
    """A network that takes grey slices as they come out of `hemoscan.preprocess` and returns logits.

    Normalisation is a part of it, so that trainer, scanner and exported files cannot differ in it.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, spec: InputSpec) -> None:
        super().__init__()
        self.network = network
        self.scale = spec.scale
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(1, 3, 1, 1), persistent=False)

    def forward(self, grey: Tensor) -> Tensor:
        """Return logits of shape (n,) for grey values (HU) of shape (n, rows, columns), any real dtype."""
        logits: Tensor = self.network(self.normalise(grey))
        return logits[:, 0]

    def normalise(self, grey: Tensor) -> Tensor:
        """Return what the network takes, of shape (n, 3, rows, columns)."""
        scaled = grey[:, None].to(self.mean.dtype) / self.scale
        return ((scaled - self.mean) / self.std).contiguous(memory_format=torch.channels_last)


class MappedClassifier(nn.Module):
    """A classifier that also returns its class activation map, for inference.

    See `activation_map`.
    """

    def __init__(self, classifier: Classifier, architecture: str) -> None:
        super().__init__()
        self.classifier = classifier
        network = classifier.network
        parts = [network.features] if architecture == "densenet121" else list(network.children())[:-2]
        self.body = nn.Sequential(*parts)
        self.unit = top_unit(classifier, architecture)

    def forward(self, grey: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits of shape (n,), maps of shape (n, h, w), for grey values (HU) of shape (n, rows, columns)."""
        maps = activation_map(self.body(self.classifier.normalise(grey)), self.unit)
        return maps.mean((1, 2)), maps


def build_classifier(architecture: str, spec: InputSpec) -> Classifier:
    """Build a classifier with torchvision's random initialisation (seeded by the caller's `torch.manual_seed`)."""
    return Classifier(with_top(torchvision.models.get_model(architecture), architecture), spec)


def with_top(network: nn.Module, architecture: str) -> nn.Module:
    """Replace the 1000-class top by Dropout(0.5) and one logit, in place."""
    name = TOPS[architecture]
    old = getattr(network, name)
    setattr(network, name, Head(nn.Dropout(DROPOUT), nn.Linear(old.in_features, 1)))
    return network.to(memory_format=torch.channels_last)


def top_unit(classifier: Classifier, architecture: str) -> nn.Linear:
    """Return the linear unit that makes the logit."""
    unit = getattr(classifier.network, TOPS[architecture])[1]
    if not isinstance(unit, nn.Linear):
        raise TypeError(f"top of {architecture} is {type(unit).__name__}, not Linear")
    return unit


def activation_map(features: Tensor, unit: nn.Linear) -> Tensor:
    """Return class activation maps of shape (n, h, w), logits, for features of shape (n, channels, h, w).

    Both networks end in global average pooling of rectified features and one linear unit, so the map is exact, needs no
    gradients, and its mean is the logit. The unit's bias is spread evenly.

    Source: Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016.
    """
    # A product and a sum rather than a convolution, which OpenVINO would compute in bf16 where it runs in that.
    return (torch.relu(features.float()) * unit.weight[0, :, None, None]).sum(1) + unit.bias


@contextmanager
def collecting_maps(classifier: Classifier, architecture: str) -> Iterator[list[Tensor]]:
    """Collect the class activation maps of every call within: a second output that leaves the logits' bits alone."""
    maps: list[Tensor] = []
    unit = top_unit(classifier, architecture)

    def collect(_module: nn.Module, _inputs: Any, features: Tensor) -> None:
        maps.append(activation_map(features, unit))

    last = getattr(classifier.network, LAST_FEATURES[architecture])
    handle = last.register_forward_hook(collect)
    try:
        yield maps
    finally:
        handle.remove()


def start_classifier(architecture: str, spec: InputSpec, init: str) -> Classifier:
    """Build a classifier that starts as asked.

    Parameters
    ----------
    init
        `scratch` (random), `imagenet` (torchvision's IMAGENET1K_V1: from its cache folder, else downloaded), or the
        path of a state dict of the same network, .safetensors or .pth: torchvision's own or one of hemoscan's.

    Raises
    ------
    StartError
        If the start cannot be had; the text names the ways out. Training never goes on from another start.
    """
    classifier = build_classifier(architecture, spec)
    if init == "imagenet":
        classifier.network = with_top(_imagenet(architecture), architecture)
    elif init != "scratch":
        _load_start(classifier.network, architecture, Path(init))
    return classifier


def _imagenet(architecture: str) -> nn.Module:
    try:
        network: nn.Module = torchvision.models.get_model(architecture, weights="IMAGENET1K_V1")
    except (OSError, RuntimeError) as error:  # URLError is an OSError; a wrong hash is a RuntimeError
        url = torchvision.models.get_model_weights(architecture)["IMAGENET1K_V1"].url
        raise StartError(
            f"--init imagenet: torchvision's weights of {architecture} cannot be had ({error}). Ways out: "
            f"put {url.rsplit('/', 1)[-1]} into {Path(torch.hub.get_dir()) / 'checkpoints'}; "
            "pass such a file with --init FILE; or train from random weights with --init scratch"
        ) from error
    return network


def _load_start(network: nn.Module, architecture: str, path: Path) -> None:
    """Load a state dict from a file; the top may be absent from it or of another size, everything else must fit."""
    state = {_new_name(name): value for name, value in _read_state(path).items()}
    top = TOPS[architecture] + "."
    own = network.state_dict()
    fitting = {
        name: value
        for name, value in state.items()
        if not name.startswith(top) or (name in own and own[name].shape == value.shape)
    }
    try:
        missing, unexpected = network.load_state_dict(fitting, strict=False)
    except RuntimeError as error:
        raise StartError(
            f"--init {path}: not weights of {architecture}: {str(error).splitlines()[-1].strip()}"
        ) from error
    # Files of torchvision's first releases lack num_batches_tracked, which nothing reads at a fixed momentum.
    lacking = [name for name in missing if not name.startswith(top) and not name.endswith("num_batches_tracked")]
    if lacking or unexpected:
        raise StartError(
            f"--init {path}: not weights of {architecture}: {len(lacking)} names lack, {len(unexpected)} are unknown"
        )


def _new_name(name: str) -> str:
    found = OLD_DENSENET_NAME.match(name)
    return found.group(1) + found.group(2) if found else name


def _read_state(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return _dequantised(safetensors.torch.load_file(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever the unpickler met
        # The first clause alone: PyTorch goes on to advise what lets a file run code.
        clause = re.split(r"\. |\n", str(error), maxsplit=1)[0]
        reason = f"{type(error).__name__}: {clause}" if clause else type(error).__name__
        raise StartError(f"--init {path}: cannot be read as weights (.safetensors or .pth): {reason}") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise StartError(f"--init {path}: holds no state dict (a mapping from names to tensors)")
    return state


def save_weights(classifier: Classifier, bits: int = 16) -> bytes:
    """Return the network's state dict as safetensors.

    Parameters
    ----------
    bits
        16: floating point tensors as float16. 8: convolution kernels as int8, each output channel with a scale of its
        own, float32 of shape (channels,), named as the kernel with `_scale` at the end; kernel times scale is the
        weight. All else is float16.
    """
    state: dict[str, Tensor] = {}
    for name, found in classifier.network.state_dict().items():
        value = found.detach().cpu().contiguous()
        if bits == 8 and value.ndim == KERNEL_DIMENSIONS:
            state[name], state[name + SCALE_SUFFIX] = _quantise(value.float())
        elif not name.endswith("num_batches_tracked"):
            state[name] = value.half() if value.is_floating_point() else value
    return safetensors.torch.save(state)


def _quantise(kernel: Tensor) -> tuple[Tensor, Tensor]:
    """Return a kernel of shape (channels, ...) as int8, symmetric about 0, and its scales of shape (channels,)."""
    peak = kernel.abs().amax((1, 2, 3))
    scale = torch.where(peak > 0, peak / MOST_INT8, 1.0)
    steps = torch.round(kernel / scale[:, None, None, None]).clamp(-MOST_INT8, MOST_INT8)
    return steps.to(torch.int8).contiguous(), scale


def _dequantised(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict as it was before `save_weights` made kernels whole numbers, in float32."""
    found = dict(state)
    for name in [name for name, value in state.items() if value.dtype == torch.int8]:
        scale = found.pop(name + SCALE_SUFFIX, None)
        if scale is None or scale.shape != state[name].shape[:1]:
            raise ValueError(f"{name} is int8 without a scale for each of its channels")
        found[name] = state[name].float() * scale.float().view(-1, *[1] * (state[name].ndim - 1))
    return {name: value.float() if value.is_floating_point() else value for name, value in found.items()}


def load_saved(classifier: Classifier, content: bytes) -> tuple[list[str], list[str]]:
    """Load what `save_weights` returned; return the names that lack and those that are unknown.

    Raises
    ------
    ValueError, RuntimeError, safetensors.SafetensorError
        If the content is something else.
    """
    state = _dequantised(safetensors.torch.load(content))
    missing, unexpected = classifier.network.load_state_dict(state, strict=False)
    return [name for name in missing if not name.endswith("num_batches_tracked")], unexpected


def load_classifier(model: Model) -> Classifier:
    """Load a model for inference: float32, evaluation mode, on the CPU.

    Raises
    ------
    CardError
        If the weights are missing, changed, or do not fit the card's architecture.
    """
    card = model.card
    content = model.read_weights()
    classifier = build_classifier(card.architecture, card.input)
    try:
        missing, unexpected = load_saved(classifier, content)
    except (ValueError, RuntimeError, safetensors.SafetensorError) as error:
        raise CardError(f"{model.weights_path}: not weights of {card.architecture}: {error}") from error
    if missing or unexpected:
        raise CardError(f"{model.weights_path}: not weights of {card.architecture}: names differ")
    return classifier.eval()
