"""Numbers as a report writes them."""

import math

from experiments.reports.measurements import Score


def share(value: float, digits: int = 1) -> str:
    """Writes a share as per cent; what is less than all is not rounded up to 100 %."""
    text = f"{100 * value:.{digits}f}"
    if value < 1 <= float(text) / 100:
        text = f"{math.floor(100 * value * 10**digits) / 10**digits:.{digits}f}"
    return f"{text} %"


def interval(score: Score) -> str:
    """Writes the interval of a score: '90.1 to 92.3 %'."""
    return f"{share(score.low).split()[0]} to {share(score.high)}"


def duration(seconds: float) -> str:
    """Writes a time: '2 h 05 min', '4 min 10 s', '15 s'."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
