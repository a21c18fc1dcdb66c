"""`stockhook send`: play the documented events, or a generated marketplace, at an ingest."""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import islice
from pathlib import Path
from time import perf_counter

from schemas import examples
from schemas.examples import Example
from schemas.registry import Provider
from worker.cli import send_views as report
from worker.cli.context import Flag, WrongUsage, fail
from worker.cli.terminal import say_json, show
from worker.config.settings import read_settings
from worker.observability.exit_codes import FAILED, UNAVAILABLE
from worker.observability.resolver import run_loop
from worker.simulator import generator as marketplace
from worker.simulator.http_client import Answer, Client, NoAnswer
from worker.simulator.rate_sender import (
    RESEND_AFTER,
    OnAccepted,
    Sender,
    Tally,
)
from worker.simulator.unhandled_events import with_unhandled
from worker.simulator.webhook import Credentials, Webhook

_AS_OVOKO = ",".join(f"{delay.total_seconds():g}" for delay in RESEND_AFTER)


@dataclass(frozen=True, slots=True)
class Play:
    """A generated marketplace, and how it is sent."""

    rate: float
    seconds: float
    seed: int
    duplicates: float
    shuffle: bool
    resend_after: tuple[timedelta, ...]
    unhandled: float = 0.0

    def __post_init__(self) -> None:
        """Raises WrongUsage."""
        _check("--rate", self.rate, 0 < self.rate <= 10_000, "more than 0, at most 10000")
        _check("--seconds", self.seconds, 0 < self.seconds <= 86_400, "more than 0, at most 86400")
        _check("--seed", self.seed, self.seed >= 0, "0 or more")
        _check("--duplicates", self.duplicates, 0 <= self.duplicates <= 1, "between 0 and 1")
        _check("--unhandled", self.unhandled, 0 <= self.unhandled < 1, "0 or more, less than 1")
        _check("--rate times --seconds", self.count, self.count > 0, "1 event or more")

    @property
    def count(self) -> int:
        return round(self.rate * self.seconds)

    def webhooks(self, credentials: Credentials, providers: tuple[Provider, ...]) -> Iterator[Webhook]:
        """As many as `count` says, re-sends among them."""
        events = (event for event in marketplace.events(self.seed) if event.provider in providers)
        among = with_unhandled(events, share=self.unhandled, providers=providers, seed=self.seed)
        scrambled = marketplace.scrambled(
            among, duplicates=self.duplicates, shuffle=self.shuffle, seed=self.seed
        )
        for event in islice(scrambled, self.count):
            yield credentials.webhook(event.provider, event.event_type, event.body)


def send(
    *,
    documented: Flag = False,
    as_printed: Flag = False,
    rate: float | None = None,
    seconds: float = 10.0,
    seed: int = 1,
    duplicates: float = 0.0,
    unhandled: float = 0.0,
    shuffle: Flag = False,
    resend_after: str = _AS_OVOKO,
    provider: Provider | None = None,
    url: str | None = None,
    output: Path | None = None,
    json: Flag = False,
) -> None:
    """Send the documented events, or those of a generated marketplace, to an ingest.

    Secrets and address are those of the ingest's settings. Exits 0 if each event was answered 2xx in
    the end, 1 otherwise.

    Parameters
    ----------
    documented
        Send every event that the marketplaces' documents print, one after another.
    as_printed
        With --documented: also the four that are no JSON, as they are printed.
    rate
        Send events of generated marketplaces at this rate per second, even if answers are slow.
    seconds
        With --rate: the duration in seconds.
    seed
        With --rate: the seed of the generated marketplaces; the same seed sends the same bytes.
    duplicates
        With --rate: the share of events that is sent twice, from 0 to 1.
    unhandled
        With --rate: the share of events of types that no family handles, such as submissions and offers.
    shuffle
        With --rate: send out of order, by up to 100 places.
    resend_after
        With --rate: how long to wait after each failure before sending again, in seconds; by default
        as Ovoko does. After that an event is given up.
    provider
        Only this marketplace's events.
    url
        The ingest; by default where STOCKHOOK_INGEST_HOST and STOCKHOOK_INGEST_PORT say it is.
    output
        Write a JSON line for each event that was answered 2xx: event id, provider, type, and the
        SHA-256 of the body as it is stored (without its token; bank details not encrypted yet).
    json
        Print JSON: an object for each documented event, or one that sums up.
    """
    try:
        _check_modes(documented, as_printed, rate)
        delays = _delays(resend_after)
        play = None if rate is None else Play(rate, seconds, seed, duplicates, shuffle, delays, unhandled)
        settings = read_settings()
        providers = _chosen_providers(provider, is_played=play is not None)
        credentials = Credentials.of(settings, providers)
        client = Client(url or settings.ingest_url)
        with _recording(output) as on_accepted:
            if play is not None:
                webhooks = play.webhooks(credentials, providers)
                work = _send_generated(client, webhooks, play, on_accepted, json)
            else:
                chosen = _chosen_examples(providers, as_printed)
                work = _send_documented(client, credentials, chosen, on_accepted, json)
            all_accepted = run_loop(work)
    except NoAnswer as error:
        fail(UNAVAILABLE, f"no answer from an ingest at {client.url} ({error})")
    sys.exit(0 if all_accepted else FAILED)


def _check_modes(documented: bool, as_printed: bool, rate: float | None) -> None:
    if documented and rate is not None:
        raise WrongUsage("--documented and --rate exclude each other")
    if not documented and rate is None:
        raise WrongUsage("nothing to send: give --documented, or --rate with --seconds and --seed")
    if as_printed and not documented:
        raise WrongUsage("--as-printed goes with --documented")


def _chosen_providers(provider: Provider | None, *, is_played: bool) -> tuple[Provider, ...]:
    """Raises: WrongUsage."""
    available = marketplace.PROVIDERS if is_played else tuple(Provider)
    if provider is None:
        return available
    if provider not in available:
        raise WrongUsage(f"--rate plays {' and '.join(available)} alone (given: --provider {provider})")
    return (provider,)


def _check(option: str, given: float, holds: bool, rule: str) -> None:
    if not holds:
        raise WrongUsage(f"{option} must be {rule} (given: {given:g})")


def _delays(listed: str) -> tuple[timedelta, ...]:
    try:
        seconds = [float(part) for part in listed.split(",") if part.strip()]
    except ValueError:
        seconds = [-1.0]
    if not all(0 <= delay <= 86_400 for delay in seconds):
        raise WrongUsage(f"--resend-after must be seconds, comma-separated (given: {listed!r})")
    return tuple(timedelta(seconds=delay) for delay in seconds)


def _chosen_examples(providers: tuple[Provider, ...], as_printed: bool) -> list[Example]:
    chosen = list(examples.documented())
    if as_printed:
        chosen += [replace(example, name=f"printed/{example.name}") for example in examples.as_printed()]
    return [example for example in chosen if example.provider in providers]


async def _send_documented(
    client: Client,
    credentials: Credentials,
    chosen: list[Example],
    on_accepted: OnAccepted,
    json: bool,
) -> bool:
    """Send each once, a line for each; whether all were answered 2xx.

    Raises:
        NoAnswer: The first that is not answered ends it.
    """
    all_accepted = True
    async with client:
        for example in chosen:
            webhook = credentials.webhook(example.provider, example.event_type, example.body)
            began = perf_counter()
            answer = await client.post(webhook)
            milliseconds = (perf_counter() - began) * 1000
            answered = report.AnsweredExample(example.name, webhook, answer, milliseconds)
            if json:
                say_json(answered.as_json())
            else:
                show(answered.as_text(), soft_wrap=True)
            if answer.is_success:
                on_accepted(webhook, answer)
            all_accepted = all_accepted and answer.is_success
    return all_accepted


async def _send_generated(
    client: Client, webhooks: Iterator[Webhook], play: Play, on_accepted: OnAccepted, json: bool
) -> bool:
    """Send all, again after failures; sum up, also when interrupted; whether all were answered 2xx.

    Raises:
        NoAnswer: There is no server. (Later, no answer is a failure like any other.)
    """
    tally = Tally()
    sender = Sender(client, tally, play.resend_after, on_accepted)
    async with client:
        await client.reach()
        began = perf_counter()
        try:
            async with _shown(tally, play.count):
                await sender.play(webhooks, play.rate)
        finally:
            seconds = perf_counter() - began
            if json:
                say_json(report.summary_as_json(tally, seconds))
            else:
                show(report.summary_as_table(tally, seconds))
    return tally.accepted == play.count


@contextmanager
def _recording(output: Path | None) -> Iterator[OnAccepted]:
    """What to call for each accepted event: it writes a line, whole at once, or does nothing."""
    if output is None:
        yield lambda webhook, answer: None
        return
    try:
        file = output.open("wb", buffering=0)
    except OSError as error:
        raise WrongUsage(f"--output: cannot write {output}: {error.strerror}") from None
    with file:

        def record(webhook: Webhook, answer: Answer) -> None:
            file.write(report.accepted_line(webhook, answer))

        yield record


@asynccontextmanager
async def _shown(tally: Tally, count: int) -> AsyncIterator[None]:
    """Show a bar on standard error if that is a terminal, and update it ten times per second."""
    with report.progress() as bar:
        if bar.disable:
            yield
            return
        task = bar.add_task("", total=count, status="")

        async def show() -> None:
            while True:
                settled = tally.accepted + tally.given_up
                bar.update(task, completed=settled, status=report.progress_text(tally))
                bar.refresh()
                await asyncio.sleep(0.1)

        showing = asyncio.create_task(show())
        try:
            yield
        finally:
            showing.cancel()
