"""Progress on standard error: a bar on a terminal, otherwise one line per step."""

from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

# Rare enough not to influence a measurement.
FRAMES_A_SECOND = 1


@dataclass(slots=True)
class Show:
    console: Console
    _progress: Progress = field(init=False)
    _tasks: dict[str, TaskID] = field(default_factory=dict)

    def __post_init__(self) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[text]}"),
            TimeElapsedColumn(),
        )
        self._progress = Progress(
            *columns,
            console=self.console,
            refresh_per_second=FRAMES_A_SECOND,
            disable=not self.console.is_terminal,
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)

    def step(self, measure: str, text: str, number: int, total: int) -> None:
        if self._progress.disable:
            self.say(f"{measure}: {text}")
            return
        if measure not in self._tasks:
            self._tasks[measure] = self._progress.add_task(measure, total=total, text=text)
        self._progress.update(self._tasks[measure], completed=number, text=text)

    def done(self, measure: str, total: int) -> None:
        if not self._progress.disable:
            self._progress.update(self._tasks[measure], completed=total, text="done")
