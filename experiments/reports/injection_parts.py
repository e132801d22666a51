"""Parts of an injection page: members of ensembles, pathways of mixtures."""

from collections.abc import Mapping

from common.analysis import Page
from common.array_types import PyTree
from common.data.pipeline import gather
from common.data.sort_of_clevr import TYPES
from experiments.analyses.injection import first_pictures
from experiments.analyses.injection_parts import BINS, ensemble_sureness, pathway_parts
from experiments.reports.wording import share
from experiments.tasks.injection import InjectionTask

Models = Mapping[str, tuple[InjectionTask, PyTree]]
"""Tasks and parameters by the name of the model."""

PICTURES = 64
"""Test pictures that layers are measured on, at most."""
ANSWERED = 500
"""Test pictures whose answers ensembles are measured on, at most."""


def add_ensembles(page: Page, models: Models) -> None:
    """Adds how far the members of ensembles can be believed, alone and together."""
    found = {}
    for name, (task, params) in models.items():
        batch = gather(task.eval_sources["test"], first_pictures(task, ANSWERED))
        if measured := ensemble_sureness(task, params, batch):
            found[name] = measured
    if not found:
        return
    page.section("Does an ensemble know when it is wrong?")
    page.paragraph(
        f"Members alone and by their mean probability, on at most {ANSWERED} test pictures. The "
        "calibration error is how far confidence and the share of right answers lie apart, in "
        f"{BINS} bins of confidence. Disagreement and mutual information tell wrong answers from "
        "right ones only where they are larger for the wrong."
    )
    rows = []
    for name, measured in found.items():
        each = {f"member {n}": member for n, member in enumerate(measured.members)}
        for who, sure in {**each, "all members": measured.ensemble}.items():
            numbers = (share(sure.right), f"{sure.loss:.3f}", share(sure.calibration_error))
            rows.append((name, who, *numbers))
    page.table(("mechanism", "who", "right", "nats", "calibration error"), rows)
    rows = [
        (name, what, f"{right:.3f}", f"{wrong:.3f}")
        for name, measured in found.items()
        for what, (right, wrong) in (
            ("share of pairs that disagree", measured.disagreement),
            ("mutual information, nats", measured.mutual_information),
        )
    ]
    page.table(("mechanism", "members' difference", "right answers", "wrong answers"), rows)


def add_pathways(page: Page, models: Models) -> None:
    """Adds what each pathway of mixtures gives to the types of questions."""
    rows = []
    for name, (task, params) in models.items():
        batch = gather(task.eval_sources["test"], first_pictures(task, PICTURES))
        for layer, parts in pathway_parts(task, params, batch).items():
            for number, by_type in enumerate(parts.T):
                rows.append((name, layer, f"{number}", *(share(part, 0) for part in by_type)))
    if not rows:
        return
    page.section("Do pathways specialise?")
    page.paragraph(
        "Each pathway's part of what the mixture gives at the answer's token, in root mean "
        "squares. Those that had a type of question of their own would differ along a row."
    )
    page.table(("mechanism", "where", "pathway", *TYPES), rows)
