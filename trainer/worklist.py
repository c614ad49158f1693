"""Labelled studies as the worklist of their scan has them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from hemoscan.aggregate import Worklist, study_of
from hemoscan.errors import OptionError
from hemoscan.reread import read_record, read_rows, study_threshold_of
from hemoscan.slices import OK
from hemoscan.trainer.evaluation import Sample
from hemoscan.trainer.join import Joined
from hemoscan.trainer.scores import Scores


def as_in_worklist(sample: Sample, studies: NDArray[np.int64], scores: Scores, joined: Joined) -> Sample | str:
    """Return studies with score and flag of the scan's worklist, which goes by all their slices, labelled or not.

    Parameters
    ----------
    sample
        The studies, as from `Sample.by_study`.
    studies
        Shape (n,): the study of each joined slice, -1 where none is known.
    scores, joined
        The slices.

    Returns
    -------
    Sample or str
        Why not, if the scores are no scan's with its run record beside them, or the studies not one to one the scan's.
    """
    try:
        worklist = Worklist(study_threshold_of(read_record(scores.source)))
        uids = []
        for row in read_rows(scores.source):
            worklist.add(row)
            if row.decoded.status == OK and row.probability is not None:
                uids.append(study_of(row))
    except OptionError as error:  # another tool's, or without its record
        return str(error)
    except ValueError as error:
        return f"{scores.source.with_suffix('.run.json')}: {error}"
    if len(uids) != len(scores):
        return f"{scores.source}: {len(uids)} of {len(scores)} scores are of slices of a scan"
    pairs = {(study, uids[row]) for study, row in zip(studies.tolist(), joined.rows, strict=True) if study >= 0}
    if any(len(set(one)) < len(pairs) for one in zip(*pairs, strict=True)):
        return f"the studies of the labels are not one to one those of {scores.source}"
    found = {study.uid: study for study in worklist.ranked()}
    judged = [found[uid] for _, uid in sorted(pairs)]
    return replace(
        sample,
        scores=np.array([-1.0 if study.score is None else study.score for study in judged]),
        flags=np.array([bool(study.flag) for study in judged]),
    )
