"""The whole analysis as one page."""

import time
from collections.abc import Callable
from pathlib import Path

from common.analysis import Page
from common.train.state import parameter_count
from experiments.analyses import causes, contours, cost, gradients, recurrence
from experiments.analyses.subject import Subject
from experiments.reports import mechanism, outcome
from experiments.reports.measurements import Score
from experiments.reports.run import CHANCE
from experiments.reports.wording import interval, share

Section = Callable[[Page, Subject], None]


def write_analysis(
    subject: Subject, folder: Path, tell: Callable[[str], None] = lambda line: None
) -> Path:
    """Writes folder/analysis.html, with its figures beside it; returns the page's path.

    What a model has none of (time steps, gates, a recurrence) is left out, and so is what needs the
    contours' geometry where the images were not generated here.

    Args:
        subject: model and images.
        folder: made where it is missing.
        tell: hears of each part with the time so far.
    """
    page = Page(f"{subject.run.config.model.name}, taken apart")
    started = time.perf_counter()
    add_summary(page, subject)
    for number, (what, add) in enumerate(SECTIONS.items(), 1):
        tell(f"{time.perf_counter() - started:4.0f} s  {number}/{len(SECTIONS)}  {what}")
        add(page, subject)
    path = page.write(folder / "analysis.html")
    tell(f"{time.perf_counter() - started:4.0f} s  done")
    return path


def add_summary(page: Page, subject: Subject) -> None:
    """Adds what was examined and how well it answers, beside what needs no contour."""
    score = Score.of(subject.run.predictions.correct)
    settings, data = subject.settings, subject.run.data
    page.lead(
        f"The model answers {share(score.value)} of {len(subject.labels)} images rightly (95 % "
        f"interval {interval(score)}), where guessing gives {share(CHANCE, 0)}."
    )
    shortcuts = {}
    if subject.scenes is not None:
        shortcuts = outcome.measure.shortcuts(data)
    distance = shortcuts.get("marker distance")
    if distance is not None:
        page.paragraph(
            "An accuracy means as much as the images leave to be found out: the distance between "
            f"the discs alone, without any contour, gives {share(distance.value)} "
            f"({interval(distance)}) on these images. In the public generator's layout it gives "
            "some 86 % at contours of 6 paddles and less with longer ones, and an accuracy there "
            "is to be read against that."
        )
    which = ", the best of the run, whose scores result.json has" if subject.best else ""
    step = {} if subject.step is None else {"training step": f"{subject.step:,}{which}"}
    page.facts(
        {
            "checkpoint": subject.checkpoint.name,
            **step,
            "parameters": f"{parameter_count(subject.params):,}",
            "images": f"{subject.origin}, {settings.image_size} pixels, {settings.layout} layout, "
            f"contours of {settings.contour_length} paddles",
        }
    )


def _of_run(add: Callable) -> Section:
    return lambda page, subject: add(page, subject.run)


SECTIONS: dict[str, Section] = {
    "images and answers": _of_run(outcome.add_samples),
    "accuracy by distance": _of_run(outcome.add_distance),
    "kernels": _of_run(mechanism.add_kernels),
    "gates over time": _of_run(mechanism.add_gates),
    "gates by frequency": recurrence.add_gates,
    "spectra": recurrence.add_spectra,
    "impulse responses": recurrence.add_impulses,
    "receptive field": recurrence.add_reach,
    "states": _of_run(mechanism.add_states),
    "states in motion": recurrence.add_movie,
    "answers by step": causes.add_answers,
    "gradients by frame and pixel": _of_run(mechanism.add_attribution),
    "gradients of each frame": gradients.add_step_maps,
    "integrated gradients": gradients.add_path_attribution,
    "gradients of gates and kernels": gradients.add_mechanisms,
    "parts taken away": causes.add_knockouts,
    "bands taken away": causes.add_bands,
    "contours cut": contours.add_cuts,
    "traces along contours": contours.add_traces,
    "probes on contours": contours.add_probes,
    "sequential and parallel": cost.add_scan_costs,
}
"""What the page consists of, in order."""
