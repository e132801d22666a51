"""What the pages of all comparisons have."""

import datetime
from collections.abc import Sequence

from common.analysis import Page
from experiments.comparisons.results import Result
from experiments.reports.wording import duration


def add_facts(page: Page, results: Sequence[Result]) -> None:
    """Adds where, when and with what the runs were made."""
    environments = [r.environment for r in results]
    starts = sorted(e.get("start_time", "")[:10] for e in environments)
    machines = sorted({f"{e.get('cpu')}, {e.get('cpu_cores')} cores" for e in environments})
    versions = sorted({f"jax {e.get('packages', {}).get('jax')}" for e in environments})
    seeds = sorted({r.member.seed for r in results})
    page.section("The runs")
    page.facts(
        {
            "runs": len(results),
            "seeds": ", ".join(map(str, seeds)),
            "training in all": duration(sum(r.seconds for r in results)),
            "hardware": "; ".join(machines),
            "packages": "; ".join(versions),
            "days": starts[0] if starts[0] == starts[-1] else f"{starts[0]} to {starts[-1]}",
            "page written": datetime.date.today().isoformat(),
        }
    )
