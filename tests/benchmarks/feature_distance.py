"""What a distance in the network's feature space finds that the content check does not: a table in Markdown.

usage: python tests/benchmarks/feature_distance.py MODEL --data DIR [--limit N] [--metal N] [--cache FILE]
       [--write docs/robustness.md]

MODEL is a name from `hemoscan models` or the path of a card; DIR is the data set's folder. The first --limit slices of
each split are taken, but for black ones. Distances are fitted to those of the training split; their limits are set on
those of the validation split: at most 0.36 % of them beyond (with what the content check notes, 0.5 %), no hemorrhage.
--cache keeps the features of the slices, which take most of the time; it is for one model's weights and one limit.

Strangers: pydicom's CT files that are no heads, its MR files with their values taken as HU, scikit-learn's photographs,
noise, and labelled slices into which metal was put (`with_metal`). Heads that ought not to be noted: the phantom.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pydicom
import torch
from numpy.typing import NDArray
from performance import ROBUSTNESS_HEAD, ROBUSTNESS_SECTIONS, table, write_section
from scipy import ndimage
from sklearn.covariance import LedoitWolf
from sklearn.datasets import load_sample_images
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from hemoscan.card import BRAIN, RAW, Model, find_model
from hemoscan.content import content_notes, flooded_by_metal
from hemoscan.dicom import configure_pydicom
from hemoscan.networks import MappedClassifier, load_classifier
from hemoscan.openvino_runtime import import_openvino
from hemoscan.phantom import make_phantom
from hemoscan.preprocess import preprocess
from hemoscan.slices import OUT_OF_DISTRIBUTION
from hemoscan.trainer.data import load_splits

HU = NDArray[np.float32]
Features = NDArray[np.float32]
Distance = Callable[[Features], NDArray[np.float64]]
MOST_BEYOND = 0.0036
WATER_PER_PIXEL = 0.02
"""Attenuation of water in a pixel of 1 mm, at 70 keV."""
PHOTONS = 2e7
METAL_HU = {"titanium": 8_000.0, "steel": 25_000.0}


class Pooled(torch.nn.Module):
    """The network up to its pooled features."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.mapped = MappedClassifier(load_classifier(model), model.card.architecture).eval()

    def forward(self, grey: torch.Tensor) -> torch.Tensor:
        """Return features of shape (n, channels)."""
        return torch.relu(self.mapped.body(self.mapped.classifier.normalise(grey))).mean((2, 3))


def extractor(model: Model) -> Callable[[NDArray[np.uint8]], Features]:
    """Return what brings inputs of shape (n, size, size) to features of shape (n, channels), with OpenVINO."""
    ov, size = import_openvino(), model.card.input.size
    graph = ov.convert_model(Pooled(model), example_input=torch.zeros((1, size, size), dtype=torch.uint8))
    graph.reshape([1, size, size])
    compiled = ov.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda images: np.concatenate([compiled(image[None])[0] for image in images])


def distances(fitted: Features) -> dict[str, Distance]:
    """Return distances from what was fitted: Mahalanobis', the cosine to the mean, and to the tenth neighbour.

    Sources: Lee et al., NeurIPS 2018; Sun et al., Out-of-distribution detection with deep nearest neighbors, ICML 2022.
    """
    gauss, mean = LedoitWolf().fit(fitted), fitted.mean(0)
    neighbours = NearestNeighbors(n_neighbors=10).fit(unit(fitted))
    return {
        "Mahalanobis": lambda found: np.sqrt(gauss.mahalanobis(found)),
        "cosine": lambda found: 1 - unit(found).astype(np.float64) @ unit(mean[None])[0],
        "tenth neighbour": lambda found: neighbours.kneighbors(unit(found))[0][:, -1],
    }


def unit(features: Features) -> Features:
    """Return vectors of length 1."""
    return np.asarray(features / np.linalg.norm(features, axis=1, keepdims=True), np.float32)


def with_metal(hu: HU, kind: str, radius: float, rng: np.random.Generator) -> HU:
    """Put a disc of metal into a slice (HU from 0 up), with its streaks and with a scan's noise.

    Streaks are the filtered backprojection of what metal does to a sinogram beyond adding to it: of a beam of two
    energies the softer one is lost in it, and few photons are left to count. For that, what is outside the head is air,
    and what is clipped at the window's top bone of 1000 HU.
    """
    labels, count = ndimage.label(ndimage.binary_fill_holes(hu >= 10))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    head = labels == sizes.argmax() + 1
    body = np.where(head, np.where(hu >= 69, 1000.0, hu), -1000.0)
    rows, columns = np.nonzero(ndimage.binary_erosion(head, iterations=3))
    at = rng.integers(len(rows))
    down, across = np.ogrid[: hu.shape[0], : hu.shape[1]]
    metal = (down - rows[at]) ** 2 + (across - columns[at]) ** 2 < radius**2
    error = beyond_adding(np.where(metal, METAL_HU[kind], body), rng) - beyond_adding(body, None)
    seen = hu + 1000 / WATER_PER_PIXEL * backprojected(error)
    return np.where(metal, METAL_HU[kind], seen).astype(np.float32)


def beyond_adding(hu: NDArray[np.float64], rng: np.random.Generator | None) -> NDArray[np.float64]:
    """Return a scan's sinogram, of shape (angles, columns), less that of one energy and no noise.

    Without noise if there is no generator.
    """
    lines = np.stack([turned(WATER_PER_PIXEL * (1 + hu / 1000), angle).sum(0) for angle in range(180)])
    through = PHOTONS * 0.5 * (np.exp(-1.15 * lines) + np.exp(-0.85 * lines))
    counted = through if rng is None else rng.poisson(through)
    return np.asarray(-np.log(np.maximum(counted, 1) / PHOTONS) - lines)


def backprojected(sinogram: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the slice of a sinogram, by filtered backprojection (Kak and Slaney, chapter 3)."""
    width = sinogram.shape[1]
    ramp = np.abs(np.fft.fftfreq(2 * width))
    filtered = np.fft.ifft(np.fft.fft(sinogram, 2 * width) * ramp).real[:, :width]
    smeared = [turned(np.tile(line, (width, 1)), -angle) for angle, line in enumerate(filtered)]
    return np.asarray(np.sum(smeared, 0) * np.pi / len(sinogram))


def turned(image: NDArray[np.float64], degrees: float) -> NDArray[np.float64]:
    """Rotate about the centre."""
    return np.asarray(ndimage.rotate(image, degrees, reshape=False, order=1))


def pydicom_frames(modality: str) -> Iterator[HU]:
    """Yield the frames of pydicom's images of a modality, as HU; of CT, those that are no heads."""
    for path in sorted((Path(pydicom.__file__).parent / "data" / "test_files").rglob("*.dcm")):
        try:
            dataset = pydicom.dcmread(path)
            pixels = dataset.pixel_array
        except Exception:  # noqa: S112 - test files of pydicom are broken in every way
            continue
        heads = "head" in str(dataset.get("StudyDescription", "")).lower() or "J2K_pixelrep" in path.name
        if (
            dataset.get("Modality") != modality
            or pixels.ndim != 2
            or min(pixels.shape) < 32
            or (modality == "CT" and heads)
        ):
            continue
        slope, intercept = float(dataset.get("RescaleSlope") or 1), float(dataset.get("RescaleIntercept") or 0)
        yield np.asarray(pixels * slope + intercept, np.float32)


def strangers(slices: list[HU]) -> dict[str, list[HU]]:
    """Return images that are no heads as trained on, and the phantom, by name."""
    rng = np.random.default_rng(0)
    photographs = [image.mean(2).astype(np.float32) for image in load_sample_images().images]
    found = {
        "CT, no head (pydicom)": list(pydicom_frames("CT")),
        "MR, values as HU (pydicom)": list(pydicom_frames("MR")),
        "photographs, 0 to 255 as HU": photographs,
        "photographs, 0 to 70 HU": [image * 70 / 255 for image in photographs],
        "noise, 0 to 70 HU": [rng.uniform(0, 70, (224, 224)).astype(np.float32) for _ in range(20)],
        "smooth noise": [
            np.asarray(35 + 400 * ndimage.gaussian_filter(rng.normal(size=(224, 224)), 8), np.float32)
            for _ in range(20)
        ],
    }
    for kind in METAL_HU:
        for radius in (3, 8):
            found[f"{kind}, {2 * radius} mm"] = [with_metal(hu, kind, radius, rng) for hu in slices]
    found["phantom"] = list(make_phantom("subdural", slices=24, size=224).hu)
    found["noise of a scan alone"] = [with_metal(hu, "steel", 0, rng) for hu in slices]
    return found


def is_noted(hu: NDArray[np.floating] | NDArray[np.integer]) -> bool:
    """Tell whether a scan would note a slice by its content."""
    return OUT_OF_DISTRIBUTION in content_notes(preprocess(hu, BRAIN)) or flooded_by_metal(np.asarray(hu, np.float32))


def features_and_notes(
    model: Model, extract: Callable[[NDArray[np.uint8]], Features], raw: NDArray[np.uint8], cache: Path | None
) -> tuple[Features, NDArray[np.bool_]]:
    """Return features of slices, and whether the content check notes them; from the cache if it is of these."""
    key = f"{model.card.sha256} {len(raw)}"
    if cache is not None and cache.is_file():
        kept = np.load(cache)
        if str(kept["key"]) == key:
            return kept["features"], kept["noted"]
    features = extract(np.stack([preprocess(image, model.card.input) for image in raw]))
    noted = np.array([is_noted(image) for image in raw])
    if cache is not None:
        np.savez(cache, key=key, features=features, noted=noted)
    return features, noted


def main(arguments: argparse.Namespace) -> None:
    """Print the table; write its section if asked to."""
    configure_pydicom()
    warnings.simplefilter("ignore")  # pydicom's test files are odd, torch deprecates what OpenVINO traces with
    model = find_model(arguments.model)
    spec, extract = model.card.input, extractor(model)
    found = load_splits(arguments.data, RAW, limit=arguments.limit)
    raw = np.concatenate([split.images for split in found])
    labels = np.concatenate([split.labels for split in found])
    held_out = np.arange(len(raw)) >= len(found[0])
    kept = raw.any((1, 2))
    raw, labels, held_out = raw[kept], labels[kept], held_out[kept]
    features, noted = features_and_notes(model, extract, raw, arguments.cache)
    rng = np.random.default_rng(0)
    fitted, raw, labels, noted, features = (
        features[~held_out],
        *(values[held_out] for values in (raw, labels, noted, features)),
    )
    ways = distances(fitted)
    chosen = [i for i in rng.permutation(len(raw)) if not noted[i] and (raw[i] >= 20).mean() > 0.2][: arguments.metal]
    sets = strangers([raw[i].astype(np.float32) for i in chosen])
    inputs = {name: extract(np.stack([preprocess(hu, spec) for hu in images])) for name, images in sets.items()}
    seen = {name: np.array([is_noted(hu) for hu in images]) for name, images in sets.items()}
    rows = {name: [name, str(len(images)), str(int(seen[name].sum()))] for name, images in sets.items()}
    limits = []
    for way, distance in ways.items():
        away = distance(features)
        limit = max(np.quantile(away[~noted], 1 - MOST_BEYOND), away[labels == 1].max())
        limits.append(f"{way} {limit:.3g} ({int(((away > limit) & ~noted).sum())} slices beyond)")
        for name in sets:
            far = distance(inputs[name])
            auc = roc_auc_score(np.repeat([0, 1], (len(away), len(far))), np.concatenate([away, far]))
            rows[name].append(f"{int(((far > limit) & ~seen[name]).sum())} (AUC {auc:.2f})")
    text = f"""## Images of something else
`python tests/benchmarks/feature_distance.py {arguments.model} --data DIR --limit {arguments.limit}
--metal {arguments.metal}`

What the check of a slice's content notes as `out-of-distribution`, without looking at a header, and what a distance of
the network's pooled features from {len(fitted)} training slices would add to it. Limits of the distances, on {len(raw)}
validation slices with {int(labels.sum())} hemorrhages, of which the content check notes {int(noted.sum())}: at most
{100 * MOST_BEYOND:.2f} % beyond, and no hemorrhage; {"; ".join(limits)}. AUC: of telling the images from
those slices by the distance alone, 0.5 being chance. Metal is simulated in labelled slices; the last row and the
phantom are heads without.

{table(["what", "images", "content check", *(f"{way}: more" for way in ways)], list(rows.values()))}
"""
    print(text)
    if arguments.write is not None:
        write_section(arguments.write, "strangers", text, ROBUSTNESS_SECTIONS, ROBUSTNESS_HEAD)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--metal", type=int, default=10, help="slices into which each piece of metal is put")
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--write", type=Path)
    main(parser.parse_args())
