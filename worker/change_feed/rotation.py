"""The steps that replace a subscriber's secret without a refused change, from the present settings."""

from collections.abc import Iterator
from dataclasses import dataclass

from worker.config.gateway import PRIVATE_PREFIX, SHARED_PREFIX
from worker.config.subscribers import Subscriber

# 32 random bytes; the seed is the end of an ed25519 key in DER (RFC 8410).
NEW_SECRET = f'echo "{SHARED_PREFIX}$(openssl rand -base64 32)"'
NEW_PRIVATE_KEY = (
    f'echo "{PRIVATE_PREFIX}$(openssl genpkey -algorithm ed25519 -outform DER | tail -c 32 | base64)"'
)


@dataclass(frozen=True, slots=True)
class Step:
    """An instruction, and its command if there is one."""

    text: str
    command: str | None = None


def rotation_steps(subscriber: Subscriber, *, ed25519: bool) -> tuple[Step, ...]:
    """The remaining steps of its rotation. The kind of secret stays, or becomes `ed25519`."""
    if len(subscriber.keys) > 1:
        return tuple(_finish(subscriber, ed25519=ed25519))
    return tuple(_begin(subscriber, ed25519=ed25519 or subscriber.keys[0].public_key is not None))


def _begin(subscriber: Subscriber, *, ed25519: bool) -> Iterator[Step]:
    name = subscriber.name
    yield Step(
        "Create a new private key, in a terminal that is not recorded."
        if ed25519
        else "Create a new secret, in a terminal that is not recorded.",
        NEW_PRIVATE_KEY if ed25519 else NEW_SECRET,
    )
    yield Step(
        f"In STOCKHOOK_CHANGES_WEBHOOKS, give {name} a list with the new one first: "
        '"secret": ["NEW", "PRESENT"].'
    )
    yield Step(
        "Check the settings, then restart the consumers. From then on each change has both signatures, so "
        "the subscriber accepts it with the old secret.",
        "stockhook doctor",
    )
    if ed25519:
        yield Step(
            f"Give {name} the public key, and have it verify with that. It must skip signatures that it does "
            "not know, as the libraries of Standard Webhooks do.",
            f"stockhook changes keys {name}",
        )
    else:
        yield Step(f"Give {name} the new secret, over a private channel, and have it verify with that.")
    yield Step(
        "Once it does, see how to remove the old one.",
        f"stockhook changes rotate {name}",
    )


def _finish(subscriber: Subscriber, *, ed25519: bool) -> Iterator[Step]:
    name, newest = subscriber.name, subscriber.keys[0]
    which = (
        "the first secret of its list" if newest.public_key is None else f"the public key {newest.public_key}"
    )
    yield Step(f"Make sure that {name} verifies with {which}: the next step removes the others.")
    yield Step(
        f'In STOCKHOOK_CHANGES_WEBHOOKS, leave {name} only the first secret of its list: "secret": "FIRST".'
    )
    yield Step("Check the settings, then restart the consumers.", "stockhook doctor")
    yield Step(
        f"Check that {name} still accepts changes: its retry queues do not grow. If it refuses, put the "
        "secret that you removed back at the end of the list, and restart the consumers.",
        "stockhook status",
    )
    yield Step(
        "Replay the changes that it refused meanwhile, if there are any.",
        f"stockhook dead replay --origin {subscriber.origin}",
    )
    if ed25519 and newest.public_key is None:
        yield Step("Then change to an ed25519 key.", f"stockhook changes rotate {name} --ed25519")
