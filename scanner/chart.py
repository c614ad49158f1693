"""The scores of a series along z, as the geometry of a small chart."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

WIDTH, HEIGHT = 300, 48
# Beyond so many slices, neighbours share a bar, which has the higher score: no peak is lost.
MAX_BARS = 300


@dataclass
class Points:
    """The scored slices of a series, 20 bytes each."""

    z: array[float] = field(default_factory=lambda: array("d"))
    """mm; for a series without positions, the slices' numbers, or failing that their order."""
    scores: array[float] = field(default_factory=lambda: array("f"))
    has_z: bool = True

    def add(self, z_mm: float | None, number: int | None, score: float) -> None:
        """Take in a slice."""
        self.has_z = self.has_z and z_mm is not None
        order = float(len(self.z)) if number is None else float(number)
        self.z.append(order if z_mm is None else z_mm)
        self.scores.append(score)


@dataclass(frozen=True)
class Chart:
    """A chart of `WIDTH` by `HEIGHT`."""

    bars: str
    """SVG path of the bars that are not flagged, probability 0 to 1 from the bottom to the top."""
    flagged: str
    """The same of those that are flagged."""
    bar_width: str
    line: str
    """Where the threshold is, from the top."""
    n_slices: int
    n_flagged: int
    highest: float
    span: str
    """From which z to which, empty if unknown."""


def draw_chart(series: Points, threshold: float) -> Chart:
    """Draw the slices by rising z, evenly spaced."""
    ordered = sorted(zip(series.z, series.scores, strict=True))
    count = min(len(ordered), MAX_BARS)
    peaks = [0.0] * count
    for index, (_, score) in enumerate(ordered):
        bar = index * count // len(ordered)
        peaks[bar] = max(peaks[bar], score)
    step = WIDTH / count
    paths: dict[bool, list[str]] = {False: [], True: []}
    # The scores were kept as 32-bit floats: one at the threshold must not fall below it.
    least = threshold - 1e-6
    for bar, peak in enumerate(peaks):
        paths[peak >= least].append(f"M{(bar + 0.5) * step:.1f} {HEIGHT}V{HEIGHT - max(HEIGHT * peak, 1):.1f}")
    return Chart(
        bars="".join(paths[False]),
        flagged="".join(paths[True]),
        bar_width=f"{min(0.75 * step, 8):.2f}",
        line=f"{HEIGHT * (1 - threshold):.1f}",
        n_slices=len(ordered),
        n_flagged=sum(score >= least for score in series.scores),
        highest=max(series.scores),
        span=_span(ordered[0][0], ordered[-1][0]) if series.has_z else "",
    )


def _span(first: float, last: float) -> str:
    """Return from which z to which, in whole mm."""
    return f"z {first:.0f} mm" if round(first) == round(last) else f"z {first:.0f} to {last:.0f} mm"
