"""Whether a model ranks the bleeding slices of phantoms first.

usage: python tests/benchmarks/phantom_ranking.py [MODEL]

Prints, for each kind of bleed, the AUC between slices with and without blood, how many of the first slices by score
hold blood, and the highest score beside that of the same head without a bleed. Phantoms are no patients: this shows
that the chain works, not how good the model is.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from hemoscan.card import find_model
from hemoscan.engine import TorchEngine
from hemoscan.phantom import BLEEDS, Phantom, make_phantom
from hemoscan.preprocess import preprocess
from hemoscan.trainer.metrics import probabilities

SEEDS = (0, 1, 2)


def main(name: str) -> None:
    model = find_model(name)
    engine = TorchEngine(model, torch.device("cpu"), "fp32")

    def score(phantom: Phantom) -> np.ndarray:
        return probabilities(engine.logits(np.stack([preprocess(hu, model.card.input) for hu in phantom.hu])))

    plain = {seed: score(make_phantom("none", seed=seed)).max() for seed in SEEDS}
    print(f"{name}, 24 slices a phantom")
    print(f"{'bleed':<18}{'seed':>4}{'AUC':>8}{'blood among the first':>24}{'top':>8}{'without':>9}")
    for bleed in BLEEDS[1:]:
        for seed in SEEDS:
            phantom = make_phantom(bleed, seed=seed)
            scores, truth = score(phantom), phantom.bleeding
            first = truth[np.argsort(-scores)[: truth.sum()]].sum()
            auc = roc_auc_score(truth, scores)
            count = f"{first} of {truth.sum()}"
            print(f"{bleed:<18}{seed:>4}{auc:>8.3f}{count:>24}{scores.max():>8.3f}{plain[seed]:>9.3f}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "densenet-bias")
