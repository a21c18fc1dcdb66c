-- migrate:up
-- Renames tables and columns, so the consumers of earlier releases cannot work with the new schema: stop all
-- consumers before this migration and start those of the new release after it. The ingest uses no table and
-- stays up. Nothing is rewritten; each ALTER needs an ACCESS EXCLUSIVE lock for a moment.
--
-- A failed batch would spend attempts of its events, so this refuses to run while a consumer has a session. A
-- session of a consumer that has just stopped may take a moment to end.
DO $$
BEGIN
    FOR attempt IN 1..50 LOOP
        PERFORM pg_stat_clear_snapshot();
        IF NOT EXISTS (
            SELECT
            FROM pg_stat_activity
            WHERE datname = current_database() AND application_name = 'stockhook/consumer'
        ) THEN
            RETURN;
        END IF;
        PERFORM pg_sleep(0.1);
    END LOOP;
    RAISE EXCEPTION USING
        ERRCODE = 'object_in_use',
        MESSAGE = '0020_plain_names renames tables, and consumers have sessions in this database: stop all '
            'consumers, then run `stockhook migrate` again (if a pooler keeps such sessions, close them there: '
            'RECONNECT in PgBouncer)';
END
$$;

ALTER TABLE streams RENAME TO event_sequences;
ALTER TABLE event_sequences RENAME COLUMN stream TO source;
ALTER INDEX streams_pkey RENAME TO event_sequences_pkey;

-- No consumer runs, so no event is under suspicion. An earlier release left rows here for events that were
-- redelivered once.
DELETE FROM suspects;
ALTER TABLE suspects RENAME TO poison_candidates;
ALTER TABLE poison_candidates RENAME COLUMN event_id TO candidate_id;
ALTER INDEX suspects_pkey RENAME TO poison_candidates_pkey;

ALTER TABLE change_lanes RENAME TO change_locks;
ALTER INDEX change_lanes_pkey RENAME TO change_locks_pkey;

ALTER TABLE change_counts RENAME COLUMN fate TO state;
ALTER TABLE change_counts RENAME CONSTRAINT change_counts_fate_check TO change_counts_state_check;

ALTER TABLE dead_letters RENAME COLUMN lane TO origin;
ALTER TABLE dead_letter_audit DROP CONSTRAINT dead_letter_audit_action_check;
UPDATE dead_letter_audit SET action = 'repaired' WHERE action = 'mended';
ALTER TABLE dead_letter_audit ADD CONSTRAINT dead_letter_audit_action_check
    CHECK (action IN ('revealed', 'edited', 'repaired', 'discarded', 'replayed'));

ALTER TABLE findings RENAME COLUMN words TO message;
ALTER TABLE unhandled_events RENAME COLUMN kept_at TO stored_at;
ALTER INDEX unhandled_events_by_kept_at RENAME TO unhandled_events_by_stored_at;
ALTER TABLE actions RENAME COLUMN is_sealed TO is_encrypted;
ALTER TABLE actions RENAME COLUMN begun_at TO started_at;
ALTER TABLE parts RENAME COLUMN details_at TO enriched_at;
ALTER TABLE returns RENAME COLUMN details_at TO enriched_at;
ALTER TABLE buyback_orders RENAME COLUMN payment_details_sealed TO payment_details_encrypted;

COMMENT ON TABLE event_ids IS 'The id of every applied event, forever: an event whose id is here with the same content is a duplicate';
COMMENT ON COLUMN event_ids.event_id IS 'The id from the sender';
COMMENT ON COLUMN event_ids.content_id IS 'UUIDv5 of the content; another event with the same event id has another content id';
COMMENT ON COLUMN event_ids.provider IS 'The marketplace; null in rows that are older than this column';
COMMENT ON COLUMN event_ids.received_at IS 'The reception of the copy that was logged; null in rows that are older than this column';

COMMENT ON TABLE reused_event_ids IS 'Applied events whose event id is in event_ids with other content, or from another marketplace';
COMMENT ON COLUMN reused_event_ids.event_id IS 'The id from the sender';
COMMENT ON COLUMN reused_event_ids.provider IS 'The marketplace';
COMMENT ON COLUMN reused_event_ids.content_id IS 'UUIDv5 of the content';
COMMENT ON COLUMN reused_event_ids.received_at IS 'The reception of the copy that was logged; null in rows that are older than this column';

COMMENT ON TABLE event_log IS 'Every applied event, once, in one partition per month; projections can be rebuilt from it';
COMMENT ON COLUMN event_log.seq IS 'The order of logging; gaps are normal';
COMMENT ON COLUMN event_log.event_id IS 'The id from the sender; in rows with reuse_of, a derived id';
COMMENT ON COLUMN event_log.reuse_of IS 'The id from the sender, in rows that earlier releases logged under a derived id; otherwise null';
COMMENT ON COLUMN event_log.content_id IS 'Set if the event is in reused_event_ids; null if it is in event_ids';
COMMENT ON COLUMN event_log.provider IS 'The marketplace';
COMMENT ON COLUMN event_log.type IS 'The event type, as the marketplace spells it';
COMMENT ON COLUMN event_log.family IS 'The family that applied the event';
COMMENT ON COLUMN event_log.entity_id IS 'The part, order, return or buyback order that the event is about';
COMMENT ON COLUMN event_log.occurred_at IS 'The timestamp from the sender; implausible if it is later than received_at by more than the tolerance';
COMMENT ON COLUMN event_log.received_at IS 'The earliest reception of all copies of the event';
COMMENT ON COLUMN event_log.applied_at IS 'When the event was applied';
COMMENT ON COLUMN event_log.attempt IS 'The attempt that succeeded, from 1';
COMMENT ON COLUMN event_log.body IS 'The body as received, without the token and with encrypted bank details';

COMMENT ON TABLE event_log_rest IS 'The partition of the event log for events whose month has no partition of its own';

COMMENT ON TABLE event_log_dropped IS 'Partitions of the event log that retention dropped: their events cannot be explained or rebuilt';
COMMENT ON COLUMN event_log_dropped.name IS 'The name of the partition';
COMMENT ON COLUMN event_log_dropped.applied_before IS 'All events of the partition were applied before this instant';
COMMENT ON COLUMN event_log_dropped.dropped_at IS 'When the partition was dropped';

COMMENT ON TABLE findings IS 'Unusual facts about applied events, such as an undocumented transition or an implausible timestamp';
COMMENT ON COLUMN findings.finding_id IS 'The number of the finding';
COMMENT ON COLUMN findings.kind IS 'The kind of the finding, such as undocumented_transition';
COMMENT ON COLUMN findings.family IS 'The family; any if the finding belongs to none';
COMMENT ON COLUMN findings.entity_id IS 'The entity that the finding is about';
COMMENT ON COLUMN findings.event_id IS 'The event that the finding is about; null if it is about the entity as a whole';
COMMENT ON COLUMN findings.message IS 'The text of the finding';
COMMENT ON COLUMN findings.noted_at IS 'When the finding was recorded';

COMMENT ON TABLE parts IS 'Used car parts of Ovoko and their latest stock status';
COMMENT ON COLUMN parts.part_id IS 'The id of the part at Ovoko';
COMMENT ON COLUMN parts.external_id IS 'The merchant''s own id, from the newest event that has one';
COMMENT ON COLUMN parts.external_id_at IS 'When the event of external_id occurred';
COMMENT ON COLUMN parts.status IS 'The latest stock status';
COMMENT ON COLUMN parts.is_sellable IS 'Whether the status is in_warehouse';
COMMENT ON COLUMN parts.occurred_at IS 'When the part came to its status; if that timestamp is implausible, the first reception of the event';
COMMENT ON COLUMN parts.event_id IS 'The event that set the status';
COMMENT ON COLUMN parts.has_implausible IS 'Whether an event of the part has an implausible timestamp; its status is then computed from all its events';
COMMENT ON COLUMN parts.revision IS 'The number of writes; a write that is not based on the latest revision changes nothing and is repeated';
COMMENT ON COLUMN parts.enriched_at IS 'When Ovoko''s API was requested for the columns from name on; null if it never answered';
COMMENT ON COLUMN parts.name IS 'The name of the part, from Ovoko''s API';
COMMENT ON COLUMN parts.price IS 'The price, from Ovoko''s API';
COMMENT ON COLUMN parts.currency IS 'The currency of the price';
COMMENT ON COLUMN parts.manufacturer_code IS 'The manufacturer''s code, from Ovoko''s API';
COMMENT ON COLUMN parts.visible_code IS 'The code that is visible on the part, from Ovoko''s API';
COMMENT ON COLUMN parts.other_code IS 'Another code, from Ovoko''s API';

COMMENT ON TABLE orders IS 'Orders of Ovoko';
COMMENT ON COLUMN orders.order_id IS 'The id of the order at Ovoko';
COMMENT ON COLUMN orders.status IS 'cancelled if a cancellation was received, otherwise created';
COMMENT ON COLUMN orders.created_at IS 'When the order was created; null until that event was received';
COMMENT ON COLUMN orders.cancelled_at IS 'When the order was cancelled; null if it was not';
COMMENT ON COLUMN orders.revision IS 'The number of writes, as in parts';

COMMENT ON TABLE returns IS 'Returns of Ovoko';
COMMENT ON COLUMN returns.return_id IS 'The id of the return at Ovoko';
COMMENT ON COLUMN returns.order_id IS 'The order that is returned';
COMMENT ON COLUMN returns.opened_at IS 'When the return was opened, according to its events and observations';
COMMENT ON COLUMN returns.updated_at IS 'When the return was last updated';
COMMENT ON COLUMN returns.update_count IS 'The number of distinct update events';
COMMENT ON COLUMN returns.revision IS 'The number of writes, as in parts';
COMMENT ON COLUMN returns.enriched_at IS 'When Ovoko''s API was requested for the columns from ovoko_status on and for return_items; null if it never answered';
COMMENT ON COLUMN returns.ovoko_status IS 'The status of the return, from Ovoko''s API';
COMMENT ON COLUMN returns.created_at IS 'The creation time from Ovoko''s API; opened_at is the time from the events';
COMMENT ON COLUMN returns.total_returnable_amount IS 'The amount that can be returned, from Ovoko''s API';
COMMENT ON COLUMN returns.currency IS 'The currency of total_returnable_amount';
COMMENT ON COLUMN returns.seen_at IS 'When reconciliation last corrected the return from Ovoko''s list of returns; the order is the one from that list';
COMMENT ON COLUMN returns.gone_at IS 'When reconciliation last recorded that Ovoko no longer lists the return; a later event shows that it exists';

COMMENT ON TABLE return_items IS 'The items of a return, from Ovoko''s API, as of returns.enriched_at';
COMMENT ON COLUMN return_items.return_id IS 'The return';
COMMENT ON COLUMN return_items.position IS 'The position of the item in the API''s answer';
COMMENT ON COLUMN return_items.part_id IS 'The part; null if the answer has none';
COMMENT ON COLUMN return_items.name IS 'The name of the item';
COMMENT ON COLUMN return_items.return_reason IS 'The reason for the return';
COMMENT ON COLUMN return_items.price IS 'The price of the item';
COMMENT ON COLUMN return_items.returnable_amount IS 'The amount that can be returned for the item';
COMMENT ON COLUMN return_items.currency IS 'The currency of the amounts';

COMMENT ON TABLE buyback_orders IS 'Orders of the buyback marketplace';
COMMENT ON COLUMN buyback_orders.order_id IS 'The id of the order at the marketplace';
COMMENT ON COLUMN buyback_orders.status IS 'The latest status of the order';
COMMENT ON COLUMN buyback_orders.external_order_id IS 'The order id in another system, from the events';
COMMENT ON COLUMN buyback_orders.external_reference IS 'The external reference of the order';
COMMENT ON COLUMN buyback_orders.submission_external_reference IS 'The external reference of the submission';
COMMENT ON COLUMN buyback_orders.country IS 'The country of the order';
COMMENT ON COLUMN buyback_orders.payment_type IS 'How the customer is paid';
COMMENT ON COLUMN buyback_orders.currency IS 'The currency of total_amount; null while the items differ';
COMMENT ON COLUMN buyback_orders.total_amount IS 'The sum of the items'' totals; null while the items differ in currency';
COMMENT ON COLUMN buyback_orders.customer_name IS 'The customer''s name (personal data)';
COMMENT ON COLUMN buyback_orders.customer_email IS 'The customer''s email address (personal data)';
COMMENT ON COLUMN buyback_orders.customer_telephone IS 'The customer''s telephone number (personal data)';
COMMENT ON COLUMN buyback_orders.customer_address IS 'The customer''s address (personal data)';
COMMENT ON COLUMN buyback_orders.payment_details_encrypted IS 'The customer''s bank details: a Fernet token of customerPaymentDetails';
COMMENT ON COLUMN buyback_orders.account_number_ending IS 'The last four characters of the customer''s account number';
COMMENT ON COLUMN buyback_orders.occurred_at IS 'When the newest event of the order occurred';
COMMENT ON COLUMN buyback_orders.stamps IS 'For each column, the instant that its value is from; columns are merged one by one, since events hold different parts of an order and arrive in any order';
COMMENT ON COLUMN buyback_orders.revision IS 'The number of writes, as in parts';

COMMENT ON TABLE buyback_items IS 'The items of buyback orders';
COMMENT ON COLUMN buyback_items.order_id IS 'The buyback order';
COMMENT ON COLUMN buyback_items.item_id IS 'The id of the item at the marketplace';
COMMENT ON COLUMN buyback_items.status IS 'The latest status of the item';
COMMENT ON COLUMN buyback_items.model IS 'The model of the device';
COMMENT ON COLUMN buyback_items.brand IS 'The brand of the device';
COMMENT ON COLUMN buyback_items.category IS 'The category of the device';
COMMENT ON COLUMN buyback_items.base_amount IS 'The base amount offered for the item';
COMMENT ON COLUMN buyback_items.total_amount IS 'The total amount offered for the item';
COMMENT ON COLUMN buyback_items.currency IS 'The currency of the amounts';
COMMENT ON COLUMN buyback_items.rejection_reasons IS 'Why the item was rejected; null if it was not';
COMMENT ON COLUMN buyback_items.stamps IS 'For each column, the instant that its value is from, as in buyback_orders';

COMMENT ON TABLE buyback_shipments IS 'The shipments of buyback orders';
COMMENT ON COLUMN buyback_shipments.order_id IS 'The buyback order';
COMMENT ON COLUMN buyback_shipments.tracking_code IS 'The carrier''s tracking code';
COMMENT ON COLUMN buyback_shipments.carrier IS 'The carrier';
COMMENT ON COLUMN buyback_shipments.waybill_url IS 'The address of the waybill document';
COMMENT ON COLUMN buyback_shipments.merged_documents_url IS 'The address of the merged documents';
COMMENT ON COLUMN buyback_shipments.pickup_starts_at IS 'The start of the pickup slot';
COMMENT ON COLUMN buyback_shipments.pickup_ends_at IS 'The end of the pickup slot';
COMMENT ON COLUMN buyback_shipments.is_reschedule IS 'Whether the pickup was rescheduled';
COMMENT ON COLUMN buyback_shipments.stamps IS 'For each column, the instant that its value is from, as in buyback_orders';

COMMENT ON TABLE reminders IS 'Reminders that the buyback marketplace sent';
COMMENT ON COLUMN reminders.order_id IS 'The buyback order';
COMMENT ON COLUMN reminders.kind IS 'schedule_pickup, pickup or drop_off';
COMMENT ON COLUMN reminders.occurred_at IS 'When the reminder was sent';
COMMENT ON COLUMN reminders.days IS 'The number of days that the reminder names; null if it names none';

COMMENT ON TABLE communications IS 'Messages that the merchant owes a customer: one row per communication that an event requires';
COMMENT ON COLUMN communications.event_id IS 'The event that requires the communication';
COMMENT ON COLUMN communications.kind IS 'The kind of communication, such as missed_collection';
COMMENT ON COLUMN communications.order_id IS 'The buyback order';
COMMENT ON COLUMN communications.item_id IS 'The item; null if the communication is about the order';
COMMENT ON COLUMN communications.occurred_at IS 'When the event occurred';

COMMENT ON TABLE event_sequences IS 'The disposition of every sequence number, per source and family; `stockhook audit` finds missing events from it';
COMMENT ON COLUMN event_sequences.source IS 'A random number for one ingest process or one spool file, which numbers its events per family from 1 (header x-stream)';
COMMENT ON COLUMN event_sequences.family IS 'The family';
COMMENT ON COLUMN event_sequences.seen IS 'Sequence numbers whose event is applied, or is a duplicate of an applied one';
COMMENT ON COLUMN event_sequences.retrying IS 'Sequence numbers whose event was last sent to a retry queue';
COMMENT ON COLUMN event_sequences.dead IS 'Sequence numbers whose event was sent to the dead letters';
COMMENT ON COLUMN event_sequences.voided IS 'Sequence numbers without an event: the event was spooled under another number, or refused';
COMMENT ON COLUMN event_sequences.applied IS 'The number of deliveries that were applied';
COMMENT ON COLUMN event_sequences.duplicates IS 'The number of deliveries that were duplicates';
COMMENT ON COLUMN event_sequences.last_received_at IS 'The latest reception of an event of this source';

COMMENT ON TABLE poison_candidates IS 'Events that may have ended their consumer, while each is handled in isolation; one that ends its consumer TRIES times becomes a dead letter';
COMMENT ON COLUMN poison_candidates.candidate_id IS 'UUIDv5 of the event id and the body';
COMMENT ON COLUMN poison_candidates.family IS 'The family';
COMMENT ON COLUMN poison_candidates.tries IS 'How often the event was handled in isolation';
COMMENT ON COLUMN poison_candidates.last_tried_at IS 'The start of the latest try, which also identifies it';

COMMENT ON TABLE dead_letters IS 'Every message from a dead-letter queue or the quarantine; retention deletes replayed and discarded ones only';
COMMENT ON COLUMN dead_letters.dead_letter_id IS 'The number of the dead letter, for `stockhook dead`';
COMMENT ON COLUMN dead_letters.message_key IS 'UUIDv5 of the message''s id and bytes: a message that is delivered twice has one row';
COMMENT ON COLUMN dead_letters.origin IS 'The family, quarantine, or webhook.NAME for a subscriber of the change feed';
COMMENT ON COLUMN dead_letters.state IS 'waiting, replaying, replayed or discarded; replaying stays if the command ended before it recorded the result';
COMMENT ON COLUMN dead_letters.event_id IS 'The event id from the message''s headers';
COMMENT ON COLUMN dead_letters.provider IS 'The marketplace; null if the headers name none';
COMMENT ON COLUMN dead_letters.type IS 'The event type; empty if it is unknown';
COMMENT ON COLUMN dead_letters.entity_id IS 'The entity that the event is about; null if it is unknown';
COMMENT ON COLUMN dead_letters.reason IS 'Why the message was dead-lettered, without values from the body';
COMMENT ON COLUMN dead_letters.exception IS 'The class of the exception; null if there was none';
COMMENT ON COLUMN dead_letters.fingerprint IS 'Eight hexadecimal digits, equal for failures of one kind';
COMMENT ON COLUMN dead_letters.attempts IS 'The number of failed attempts';
COMMENT ON COLUMN dead_letters.received_at IS 'When the ingest received the event; null if the headers do not say';
COMMENT ON COLUMN dead_letters.first_failed_at IS 'When the first attempt failed';
COMMENT ON COLUMN dead_letters.last_failed_at IS 'When the last attempt failed';
COMMENT ON COLUMN dead_letters.arrived_at IS 'When the row was written';
COMMENT ON COLUMN dead_letters.headers IS 'The message''s headers';
COMMENT ON COLUMN dead_letters.body IS 'The body without its token and with encrypted bank details; a buyback body that is not JSON is encrypted as a whole';
COMMENT ON COLUMN dead_letters.original_body IS 'The body as it arrived, if it was edited or repaired since';
COMMENT ON COLUMN dead_letters.replayed_as IS 'The event id under which it was last replayed';
COMMENT ON COLUMN dead_letters.replayed_content_id IS 'The content id under which it was last replayed';
COMMENT ON COLUMN dead_letters.replay_of IS 'The dead letter whose replay failed and became this one';
COMMENT ON COLUMN dead_letters.provenance IS 'webhook or observation, from the message''s headers and never from its body: a webhook is never applied as an observation; null if the headers do not say';

COMMENT ON TABLE dead_letter_audit IS 'Who revealed, edited, repaired, discarded or replayed a dead letter';
COMMENT ON COLUMN dead_letter_audit.audit_id IS 'The number of the entry';
COMMENT ON COLUMN dead_letter_audit.dead_letter_id IS 'The dead letter';
COMMENT ON COLUMN dead_letter_audit.at IS 'When it was done';
COMMENT ON COLUMN dead_letter_audit.who IS 'The operating system''s user and the host';
COMMENT ON COLUMN dead_letter_audit.action IS 'revealed, edited, repaired, discarded or replayed';
COMMENT ON COLUMN dead_letter_audit.reason IS 'The reason that the user gave, or the edits of a repair';

COMMENT ON TABLE unhandled_events IS 'Authentic, well-formed events of types that no family handles; they are deleted after STOCKHOOK_UNHANDLED_DAYS, or when they are replayed';
COMMENT ON COLUMN unhandled_events.unhandled_event_id IS 'The number of the row';
COMMENT ON COLUMN unhandled_events.provider IS 'The marketplace';
COMMENT ON COLUMN unhandled_events.type IS 'The event type as the marketplace spells it: the first 200 characters, without unprintable ones';
COMMENT ON COLUMN unhandled_events.event_id IS 'The event id that the sender received in the answer';
COMMENT ON COLUMN unhandled_events.content_id IS 'UUIDv5 of the content: an event that is sent again has one row';
COMMENT ON COLUMN unhandled_events.received_at IS 'When the ingest received the event';
COMMENT ON COLUMN unhandled_events.stored_at IS 'When the row was written; retention counts from here, since a dead letter that was moved here may have been received long before';
COMMENT ON COLUMN unhandled_events.body IS 'An Ovoko body as received; a Buyback body without its token and encrypted as a whole, since the positions of personal data in it are unknown';

COMMENT ON TABLE changes IS 'The outbox of the change feed: one row per batch, written with its rows and deleted after the broker''s confirm';
COMMENT ON COLUMN changes.family IS 'The family';
COMMENT ON COLUMN changes.sequence IS 'The order of publishing; later changes of an entity have greater numbers';
COMMENT ON COLUMN changes.batch_id IS 'With the position in the batch, the id of a change, by which a subscriber recognizes a repeated one';
COMMENT ON COLUMN changes.changed_at IS 'When the changes were made';
COMMENT ON COLUMN changes.changes IS 'A JSON array of objects with type, subject, event_id, occurred_at, before and after';
COMMENT ON COLUMN changes.size IS 'The number of changes in the row';

COMMENT ON TABLE change_locks IS 'One row per family, which a relay locks while it publishes the family''s changes, so that they are published in order';
COMMENT ON COLUMN change_locks.family IS 'The family';

COMMENT ON TABLE change_counts IS 'The number of changes that were ever committed, and that the broker has confirmed; the difference waits in changes';
COMMENT ON COLUMN change_counts.family IS 'The family';
COMMENT ON COLUMN change_counts.state IS 'committed or published';
COMMENT ON COLUMN change_counts.slot IS 'The count is the sum over all slots; connections use different slots, so that they do not wait for each other';
COMMENT ON COLUMN change_counts.changes IS 'The number of changes';

COMMENT ON TABLE webhooks IS 'Every subscriber that changes were ever delivered to over HTTP; the queues of one that left the settings go on filling';
COMMENT ON COLUMN webhooks.name IS 'The name of the subscriber in STOCKHOOK_CHANGES_WEBHOOKS';
COMMENT ON COLUMN webhooks.seen_at IS 'When a process last started to deliver to it';

COMMENT ON TABLE actions IS 'Requests to marketplaces, once per key, caused by an event or by a person';
COMMENT ON COLUMN actions.action_id IS 'The id of the action';
COMMENT ON COLUMN actions.kind IS 'The kind of the request, such as ovoko.part_details';
COMMENT ON COLUMN actions.key IS 'The idempotency key: a second request with the same key finds this action';
COMMENT ON COLUMN actions.subject IS 'The entity that the action is about: an order, a return, a part';
COMMENT ON COLUMN actions.request IS 'The request as JSON; a Fernet token of it if is_encrypted, and empty once such an action is done';
COMMENT ON COLUMN actions.is_encrypted IS 'Whether the request is encrypted';
COMMENT ON COLUMN actions.state IS 'due; doing (a request that must not be repeated may be under way); done; refused (answered 4xx); failed (the last retry failed); unknown (the outcome of a request that must not be repeated is unknown)';
COMMENT ON COLUMN actions.attempts IS 'The number of the last attempt, from 1';
COMMENT ON COLUMN actions.event_id IS 'The event that caused the action; null if a person did';
COMMENT ON COLUMN actions.created_at IS 'When the row was written';
COMMENT ON COLUMN actions.published_at IS 'When the broker confirmed the action on the queue stockhook.actions; null until then';
COMMENT ON COLUMN actions.started_at IS 'When the request that must not be repeated was started';
COMMENT ON COLUMN actions.finished_at IS 'When the action reached a final state';
COMMENT ON COLUMN actions.outcome IS 'The outcome as JSON, or the reason of the latest failure; without customer data';

-- migrate:down
ALTER TABLE buyback_orders RENAME COLUMN payment_details_encrypted TO payment_details_sealed;
ALTER TABLE returns RENAME COLUMN enriched_at TO details_at;
ALTER TABLE parts RENAME COLUMN enriched_at TO details_at;
ALTER TABLE actions RENAME COLUMN started_at TO begun_at;
ALTER TABLE actions RENAME COLUMN is_encrypted TO is_sealed;
ALTER INDEX unhandled_events_by_stored_at RENAME TO unhandled_events_by_kept_at;
ALTER TABLE unhandled_events RENAME COLUMN stored_at TO kept_at;
ALTER TABLE findings RENAME COLUMN message TO words;

ALTER TABLE dead_letter_audit DROP CONSTRAINT dead_letter_audit_action_check;
UPDATE dead_letter_audit SET action = 'mended' WHERE action = 'repaired';
ALTER TABLE dead_letter_audit ADD CONSTRAINT dead_letter_audit_action_check
    CHECK (action IN ('revealed', 'edited', 'mended', 'discarded', 'replayed'));
ALTER TABLE dead_letters RENAME COLUMN origin TO lane;

ALTER TABLE change_counts RENAME CONSTRAINT change_counts_state_check TO change_counts_fate_check;
ALTER TABLE change_counts RENAME COLUMN state TO fate;

ALTER INDEX change_locks_pkey RENAME TO change_lanes_pkey;
ALTER TABLE change_locks RENAME TO change_lanes;

ALTER INDEX poison_candidates_pkey RENAME TO suspects_pkey;
ALTER TABLE poison_candidates RENAME COLUMN candidate_id TO event_id;
ALTER TABLE poison_candidates RENAME TO suspects;

ALTER INDEX event_sequences_pkey RENAME TO streams_pkey;
ALTER TABLE event_sequences RENAME COLUMN source TO stream;
ALTER TABLE event_sequences RENAME TO streams;
