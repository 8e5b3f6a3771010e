"""What the numbers say, in plain words: the part of a report that everybody reads."""

import numpy as np

from cryoden.evaluation.results import Comparison, Sweep

_CLEARLY = 0.95  # times the best filter's error: below that a model clearly beats it
_ALWAYS = 0.95  # of the volumes


def verdict(comparison: Comparison) -> list[str]:
    """Sentences: the answer first, then what improved, where it fails, and what was invented.

    Args:
        comparison: at least one model among the methods.
    """
    best = comparison.best(comparison.compared)
    rival = comparison.best([*comparison.filters])
    return [
        _answer(comparison, best, rival),
        _gain(comparison, best, rival),
        _detail(comparison, best),
        *_failures(comparison, best, rival),
        *_wedge(comparison, best),
        *_matching(comparison, best),
        *(_sweep(sweep, best) for sweep in comparison.sweeps),
        *_others(comparison, best),
        "The truth is known here, so these volumes are simulated. In a real tomogram the noise and the surroundings "
        "differ: trust a feature that is also there in the tomogram as it was.",
    ]


def _answer(c: Comparison, best: str, rival: str) -> str:
    """Yes where error and FSC both say so, no where neither does; where they disagree there is doubt."""
    wedge = "fsc_wedge" in c.measures
    fsc, where = ("fsc_measured", " where the tilt series measured") if wedge else ("fsc_area", "")
    sharp = c.best(c.filters, fsc)
    ours, theirs = round(c.median(best, fsc), 3), round(c.median(sharp, fsc), 3)  # as they are told
    less, finer = c.median(best) < c.median(rival), ours >= theirs
    how = "better" if ours > theirs else "as well" if finer else "less well"
    values = f"mean FSC {ours:.3f}; {sharp} {theirs:.3f}"
    if not less and not finer:
        return (
            f"No: no model has less error than the best classical filter ({rival}); {best} comes closest, on "
            f"{_volumes(c.n)}, and agrees less well with the truth{where} ({values})."
        )
    wins = int(np.count_nonzero(c.of(best, "nrmse") < c.of(rival, "nrmse")))
    sure = less and finer and c.median(best) < _CLEARLY * c.median(rival) and wins >= _ALWAYS * c.n
    return (
        f"{'Yes' if sure else 'With doubt'}: {best} has {_change(c, best, rival)} error than the best classical filter "
        f"({rival}), less on {wins} of {_volumes(c.n)}, {'and' if less == finer else 'but'} agrees "
        f"{how} with the truth{where} ({values})."
    )


def _gain(c: Comparison, best: str, rival: str) -> str:
    ours, theirs, before = c.median(best), c.median(rival), c.median("input")
    return (
        f"Error: {ours:.0%} of the signal (NRMSE {ours:.3f}), after {before:.0%} in the input and {theirs:.0%} with "
        f"{rival}: {_change(c, best, rival)} than the filter. Where the particle is, it is "
        f"{c.median(best, 'masked_nrmse'):.0%} (filter {c.median(rival, 'masked_nrmse'):.0%})."
    )


def _change(c: Comparison, best: str, rival: str) -> str:
    ours, theirs = c.median(best), c.median(rival)
    return f"{1 - ours / theirs:.0%} less" if ours <= theirs else f"{ours / theirs - 1:.0%} more"


def _detail(c: Comparison, best: str) -> str:
    sharp = c.best(c.filters, "resolution_0.5")
    after, filtered, before = (c.median(name, "resolution_0.5") for name in (best, sharp, "input"))
    others = f"the best filter ({sharp}) {_down_to(filtered)}, the input {_down_to(before)}"
    limit = " (the finest the voxels can show)" if after <= 2 * c.voxel_size * 1.001 else ""
    return f"Detail: it agrees with the truth (FSC above 0.5) {_down_to(after)}{limit}; {others}."


def _down_to(resolution: float) -> str:
    return f"down to {resolution:.0f} Å" if np.isfinite(resolution) else "at no resolution"


def _failures(c: Comparison, best: str, rival: str) -> list[str]:
    said = []
    if len(c.entries) > 1:
        ranked = sorted(c.entries, key=lambda entry: c.median(best, entry=entry))
        easy, hard = ranked[0], ranked[-1]
        said.append(
            f"on {hard} (NRMSE {c.median(best, entry=hard):.3f}; best on {easy}: {c.median(best, entry=easy):.3f})"
        )
        lost = [entry for entry in c.entries if c.median(best, entry=entry) >= c.median(rival, entry=entry)]
        if lost:
            said.append(f"no better than {rival} on {', '.join(lost)}")
    worst = int(np.argmax(c.of(best, "nrmse")))
    said.append(f"its worst volume is item {c.evaluation.indices[worst]} ({c.of(best, 'nrmse')[worst]:.3f})")
    return [f"Where it fails most: {'; '.join(said)}."]


def _wedge(c: Comparison, best: str) -> list[str]:
    if "wedge_power" not in c.measures:
        return []
    power, invented = c.median(best, "wedge_power"), c.median(best, "invented")
    if not np.isfinite(invented):
        return ["Missing wedge: it left empty what was not measured, and invented nothing there."]
    return [
        f"Missing wedge: where nothing was measured it put in {power:.0%} of the power that belongs there; "
        f"{invented:.0%} of what it put in is not in the true volume: it is invented."
    ]


def _matching(c: Comparison, best: str) -> list[str]:
    if best not in c.matching:
        return []
    after, before = c.matching[best], c.matching["input"]
    told = (f"{name} {after[name]:.2f} against {before[name]:.2f}" for name in ("precision", "recall"))
    return [
        f"Finding particles: template matching scores F1 {after['f1']:.2f} on its volumes and {before['f1']:.2f} on "
        f"the input ({', '.join(told)})."
    ]


def _sweep(sweep: Sweep, best: str) -> str:
    if best not in sweep.values:
        return f"Sensitivity to {sweep.quantity}: {best} failed at one of its values, and has no curve."
    ours = [point[1] for point in sweep.values[best]["nrmse"]]
    low, high = int(np.argmin(ours)), int(np.argmax(ours))
    return (
        f"Sensitivity to {sweep.quantity}: its NRMSE is lowest at {sweep.points[low]:g} ({ours[low]:.3f}) and highest "
        f"at {sweep.points[high]:g} ({ours[high]:.3f})."
    )


def _others(c: Comparison, best: str) -> list[str]:
    rest = [name for name in c.compared if name != best]
    said = []
    if rest:
        told = (f"{name} {c.median(name):.3f}" for name in sorted(rest, key=c.median))
        said.append(f"The other models by NRMSE: {', '.join(told)}.")
    collapsed = [name for name in c.compared if c.median(name) > 0.95]
    if collapsed:
        said.append(f"Hardly better than an empty volume (NRMSE 1), whatever the SSIM says: {', '.join(collapsed)}.")
    if c.failed:
        said.append(f"Left out: {'; '.join(f'{run} ({why})' for run, why in c.failed.items())}.")
    return said


def _volumes(n: int) -> str:
    return "1 volume" if n == 1 else f"{n} volumes"
