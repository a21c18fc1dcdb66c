"""Ovoko as a marketplace: its entry in the registry."""

from collections.abc import Iterator, Mapping

from schemas.registry import Provider
from worker.config.check import CheckResult, ok, warning
from worker.config.settings import BadSettings, Settings
from worker.marketplaces.contract import JsonSchema, Marketplace, SecretHeader
from worker.marketplaces.ovoko.account import account_of
from worker.marketplaces.shape import Shape, is_boolean, is_id, is_instant, is_word

_EVENT: Mapping[str, Shape] = {
    "event_id": is_id,
    "event_type": is_word,
    "timestamp": is_instant,
    "event_data": {
        **dict.fromkeys(("part_id", "external_id", "id_bridge", "order_id", "return_id"), is_id),
        "status": is_word,
        "is_listed": is_boolean,
        "created_at": is_instant,
    },
}


def _flat_or_wrapped(event: JsonSchema) -> JsonSchema:
    wrapped = {"type": "object", "required": ["event"], "properties": {"event": event}}
    return {"anyOf": [event, wrapped]}


def _api_urls(settings: Settings) -> tuple[str, ...]:
    return (settings.ovoko_api_url.get_secret_value(),) if settings.ovoko_username else ()


def _check_settings(settings: Settings) -> Iterator[CheckResult]:
    if not (settings.ovoko_username or settings.ovoko_password or settings.ovoko_user_token):
        return
    try:
        account_of(settings)
    except BadSettings as fault:
        yield warning(
            "enrichment",
            f"details that Ovoko's events leave out are not requested: {fault}",
            "set all three for the consumers, or none",
        )
    else:
        pace = f"{settings.ovoko_calls_per_second:g} calls per second at most"
        yield ok("enrichment", f"details that Ovoko's events leave out are requested, {pace}")


OVOKO = Marketplace(
    name=Provider.OVOKO,
    title="Ovoko",
    secrets_setting="ovoko_secrets",
    authentication=SecretHeader(lambda settings: settings.ovoko_header),
    shape={**_EVENT, "event": _EVENT},
    summary="Ovoko's events, flat or wrapped",
    body_schema=_flat_or_wrapped,
    api_urls=_api_urls,
    check_settings=_check_settings,
)
