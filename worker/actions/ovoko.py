"""Enrichment from Ovoko's API. A read may be repeated, so it is never marked as started."""

from datetime import datetime

from consumers.details import SaveResult
from consumers.inventory import details as of_part
from consumers.inventory.details import PartDetails
from consumers.returns import details as of_return
from consumers.returns.details import ReturnDetails, ReturnItem
from schemas.actions import PART_DETAILS, RETURN_DETAILS, PartDetailsRequest, ReturnDetailsRequest
from schemas.ovoko_api import OrderReturn, PartDescription
from worker.actions.types import Attempt, Done, Kind
from worker.config.settings import Settings
from worker.marketplaces.ovoko.client import open_ovoko_for_actions

# Ovoko has no such entity, so a retry is useless.
NO_SUCH_ENTITY = Done({"enrichment": "Ovoko has none with this id"})


async def _part_details(attempt: Attempt[PartDetailsRequest]) -> Done:
    part_id = attempt.request.part_id
    fetched = await (await attempt.clients.get(open_ovoko_for_actions)).part_description(part_id)
    if fetched.row is None:
        return NO_SUCH_ENTITY
    details = part_details(fetched.row, fetched.requested_at)
    async with attempt.database.transaction() as connection:
        return _done(await of_part.save_details(connection, part_id, details), fetched.requested_at)


async def _return_details(attempt: Attempt[ReturnDetailsRequest]) -> Done:
    return_id = attempt.request.return_id
    fetched = await (await attempt.clients.get(open_ovoko_for_actions)).order_return(return_id)
    if fetched.row is None:
        return NO_SUCH_ENTITY
    details = return_details(fetched.row, fetched.requested_at)
    async with attempt.database.transaction() as connection:
        return _done(await of_return.save_details(connection, return_id, details), fetched.requested_at)


def part_details(part: PartDescription, requested_at: datetime) -> PartDetails:
    return PartDetails(
        enriched_at=requested_at,
        name=part.name,
        price=part.price,
        currency=part.currency,
        manufacturer_code=part.manufacturer_code,
        visible_code=part.visible_code,
        other_code=part.other_code,
    )


def return_details(row: OrderReturn, requested_at: datetime) -> ReturnDetails:
    return ReturnDetails(
        enriched_at=requested_at,
        ovoko_status=row.status,
        created_at=row.created_at,
        total_returnable_amount=row.total_returnable_amount,
        currency=row.currency,
        items=tuple(ReturnItem(**item.model_dump()) for item in row.order_return_items),
    )


def _done(result: SaveResult, requested_at: datetime) -> Done:
    return Done({"enrichment": result.value, "enriched_at": requested_at.isoformat()})


def _has_credentials(settings: Settings) -> bool:
    return None not in (settings.ovoko_username, settings.ovoko_password, settings.ovoko_user_token)


KINDS = (
    Kind(PART_DETAILS, PartDetailsRequest, _part_details, is_enabled=_has_credentials),
    Kind(RETURN_DETAILS, ReturnDetailsRequest, _return_details, is_enabled=_has_credentials),
)
