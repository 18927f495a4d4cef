"""How far a command is: a bar on a terminal, and where nobody looks a line every half minute as a sign of life."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.progress_bar import ProgressBar
from rich.text import Text

from sdhubert_ray import events
from sdhubert_ray.cli.console import choose_width, is_quiet, logs_are_json

LINE_SECONDS, LOOK_SECONDS = 30.0, 5.0
"""Between two lines, and between two looks at work that does not tell by itself how far it is."""

_BAR_WIDTH = 20
"""Columns: what is told beside it is more worth."""

Wait = Callable[[float], bool]
"""Waits for so many seconds, or until the work has ended, and tells which."""


class Phase:
    """One thing that takes its time, and how far it is.

    Attributes:
        title: what is done.
        unit: what is counted, in the plural; empty where nothing is.
        total: how many there are; None where nobody knows.
        done: how many are done.
        text: what else is worth telling.
    """

    def __init__(
        self,
        title: str,
        unit: str = "",
        total: int | None = None,
        done: int = 0,
        effort: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin.

        Args:
            title: what is done.
            unit: what is counted.
            total: how many there are.
            done: how many were done before.
            effort: what is left to do in a measure that the time goes with, if there is one that is known.
            clock: gives seconds.
        """
        self.title, self.unit, self.total, self.done = title, unit, total, done
        self.text = ""
        self._begun_with = done
        self._effort, self._effort_done = effort, 0.0
        self._clock = clock
        self._began = clock()

    def update(self, done: int, total: int | None = None, text: str = "") -> None:
        """Note how many are done, and of how many."""
        self.done, self.text = done, text or self.text
        self.total = self.total if total is None else total

    def advance(self, count: int = 1, effort: float = 0.0, text: str = "") -> None:
        """Note that so many more are done, which took so much of the effort."""
        self.update(self.done + count, text=text)
        self._effort_done += effort

    @property
    def seconds(self) -> float:
        """Since it began."""
        return self._clock() - self._began

    @property
    def rate(self) -> float:
        """Done per second, in the mean."""
        return (self.done - self._begun_with) / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Until all is done; None where that cannot be told."""
        if self.total is None or self.done <= self._begun_with:
            return None
        if self._effort > 0 and self._effort_done > 0:
            return self.seconds * max(0.0, self._effort / self._effort_done - 1)
        return (self.total - self.done) / self.rate if self.rate else None

    def describe(self) -> str:
        """How far, how fast, how long: "25 % (10 of 40 rows), 2.5 rows/s, 12 s left"."""
        parts = []
        if self.total:
            parts.append(f"{percent(self.done, self.total)} ({self.done} of {self.total} {self.unit})")
        elif self.unit:
            parts.append(f"{self.done} {self.unit}")
        if self.unit and self.done > self._begun_with:
            parts.append(f"{self.rate:.3g} {self.unit}/s" if self.rate < 100 else f"{self.rate:.0f} {self.unit}/s")
        left = self.seconds_left
        parts.append(f"{tell_seconds(self.seconds)} gone" if left is None else f"{tell_seconds(left)} left")
        return ", ".join([*parts, *([self.text] if self.text else [])])

    def fields(self) -> dict[str, object]:
        """The same for machines."""
        left = self.seconds_left
        return {
            "phase": self.title,
            "done": self.done,
            "total": self.total,
            "unit": self.unit,
            "seconds": round(self.seconds, 1),
            "seconds_left": None if left is None else round(left, 1),
        }


class Shown:
    """What is shown of the phases of a command, one after the other."""

    def __init__(self, bars: Progress | None, look: Callable[[], int] | None) -> None:
        self._bars = bars
        self._look = look
        self._phase: Phase | None = None

    def begin(self, phase: Phase) -> Phase:
        """Show a phase, in the place of the one before."""
        self._phase = phase
        if self._bars is not None:
            for task in self._bars.task_ids:
                self._bars.remove_task(task)
            self._bars.add_task(phase.title, total=phase.total, phase=phase)
        return phase

    def look(self) -> None:
        """Ask how far the phase is, if it does not tell."""
        if self._look is not None and self._phase is not None:
            self._phase.done = max(self._phase.done, self._look())

    def tell(self) -> None:
        """Give a sign of life."""
        self.look()
        if self._phase is None:
            return
        if logs_are_json():
            events.tell_progress(self._phase.fields())
        else:
            print(f"{self._phase.title}: {self._phase.describe()}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def progress(look: Callable[[], int] | None = None, wait: Wait | None = None) -> Iterator[Shown]:
    """Show how far the work within is.

    Args:
        look: tells how many are done, of work that does not tell so by itself.
        wait: waits between two signs of life.
    """
    if is_quiet():
        yield Shown(None, None)
        return
    over = threading.Event()
    on_terminal = sys.stderr.isatty() and not logs_are_json()
    with contextlib.ExitStack() as stack:
        bars = stack.enter_context(_make_bars()) if on_terminal else None
        shown = Shown(bars, look)
        if look is not None or not on_terminal:
            repeated = (shown.look, LOOK_SECONDS) if on_terminal else (shown.tell, LINE_SECONDS)
            thread = threading.Thread(target=_repeat, args=(*repeated, wait or over.wait), name="progress", daemon=True)
            thread.start()
            stack.callback(thread.join, LOOK_SECONDS)  # it may wait for a store that does not answer
            stack.callback(over.set)
        yield shown


def _repeat(do: Callable[[], None], seconds: float, wait: Wait) -> None:
    while not wait(seconds):
        do()


def _make_bars() -> Progress:
    console = Console(stderr=True, width=choose_width(True))
    return Progress(
        TextColumn("{task.description}"), _Bar(bar_width=_BAR_WIDTH), _Told(), console=console, transient=True
    )


class _Bar(BarColumn):
    """The bar of a phase."""

    def render(self, task: Task) -> ProgressBar:
        """Draw it as far as the phase is now."""
        phase: Phase = task.fields["phase"]
        task.total, task.completed = phase.total, phase.done
        return super().render(task)


class _Told(ProgressColumn):
    """What there is to tell of a phase."""

    def render(self, task: Task) -> Text:
        """Tell it as it is now."""
        phase: Phase = task.fields["phase"]
        return Text(phase.describe(), no_wrap=True, overflow="ellipsis")


def percent(done: float, total: float) -> str:
    """A share in percent: 100 only where nothing is left."""
    share = 100 * done / total if total else 100.0
    return f"{int(share * 10) / 10:g} %"


def tell_seconds(seconds: float) -> str:
    """A length of time, as people say it."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
