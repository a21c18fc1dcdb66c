"""Planted bugs and the tests that catch them: `make mutants` plants each in a copy and runs its test."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mutant:
    """In `file`, `original` (it occurs once) becomes `planted`; then `test` must fail."""

    name: str
    file: str
    original: str
    planted: str
    test: str


TABLE = (
    Mutant(
        "ack before commit",
        "worker/pipeline/consumer.py",
        'failpoint("received")\n',
        'failpoint("received")\n                await session.ack_up_to(batch[-1].delivery)\n',
        "tests/e2e/test_failpoints.py::test_a_consumer_dies_at[claimed]",
    ),
    Mutant(
        "ack before the flush",
        "worker/pipeline/consumer.py",
        "                await batch.report.durable\n",
        "                pass\n",
        "tests/integration/test_durability.py::test_a_commit_that_a_crash_undoes_is_applied_again",
    ),
    Mutant(
        "a batch is acknowledged before an earlier one",
        "worker/pipeline/turns.py",
        "        if self._earlier is not None and not await asyncio.shield(self._earlier):\n",
        "        if False:\n",
        "tests/unit/test_turns.py",
    ),
    Mutant(
        "a flush over a later session counts",
        "worker/postgres/durability.py",
        "        await commit(connection, WRITE_TO_LOG)\n",
        "        async with self._database.connection() as other:\n"
        "            await commit(other, WRITE_TO_LOG)\n",
        "tests/integration/test_durability.py::test_a_commit_that_a_crash_undoes_is_applied_again",
    ),
    Mutant(
        "a flush on another server counts",
        "worker/postgres/durability.py",
        "            if await self._life_of(connection) != await session.life():\n",
        "            if False:\n",
        "tests/integration/test_durability.py::test_a_flush_of_another_server_does_not_count",
    ),
    Mutant(
        "a flush whose wait was cancelled counts",
        "worker/postgres/pool.py",
        "    if any(message.server_source_function == WAITS_FOR_STANDBY for message in messages):\n",
        "    if False:\n",
        "tests/integration/test_durability.py::"
        "test_a_flush_that_does_not_wait_for_the_standby_does_not_count",
    ),
    Mutant(
        "a change is published before its flush",
        "worker/change_feed/relay.py",
        "                await flush_session.flush()\n",
        "                pass\n",
        "tests/integration/test_durability.py::test_a_change_is_published_after_a_flush",
    ),
    Mutant(
        "a dead letter that is stored already is acknowledged before it is durable",
        "worker/dead_letters/archiver.py",
        "                await commit_durably(connection)\n",
        "",
        "tests/integration/test_durability.py::"
        "test_work_that_is_done_already_is_acknowledged_once_it_is_durable[store_letter]",
    ),
    Mutant(
        "commits depend on the default of the server",
        "worker/postgres/pool.py",
        "{COMMIT_SYNCHRONOUSLY};",
        "",
        "tests/integration/test_durability.py::test_no_commit_depends_on_the_default_of_the_server",
    ),
    Mutant(
        "ack before the copy is confirmed",
        "worker/pipeline/consumer.py",
        "        if any(copies):\n",
        "        await session.ack_up_to(items[-1].delivery)\n        if any(copies):\n",
        "tests/unit/test_settling.py",
    ),
    Mutant(
        "retry without confirm",
        "worker/amqp/publisher.py",
        "            (BrokerUnavailable, Unroutable),\n            stopping,\n",
        "            ZeroDivisionError,\n            stopping,\n",
        "tests/unit/test_settling.py",
    ),
    Mutant(
        "publish without mandatory",
        "worker/amqp/codec.py",
        '_MANDATORY = b"\\x01"',
        '_MANDATORY = b"\\x00"',
        "tests/integration/test_broker.py::test_an_unroutable_message_is_an_error_and_a_routed_one_is_in_its_queue",
    ),
    Mutant(
        "one message id for all",
        "worker/amqp/tap.py",
        'f"{self._prefix}.{tag}"',
        'f"{self._prefix}.1"',
        "tests/integration/test_broker.py::test_an_unroutable_message_is_an_error_and_a_routed_one_is_in_its_queue",
    ),
    Mutant(
        "not persistent",
        "worker/amqp/codec.py",
        '_PERSISTENT = b"\\x02"',
        '_PERSISTENT = b"\\x01"',
        "tests/integration/test_broker.py::test_published_messages_are_persistent",
    ),
    Mutant(
        "claim outside the transaction",
        "worker/pipeline/transaction.py",
        "        claimed = await event_log.claim(connection, family.name, candidates)\n",
        "        async with flusher.transaction(asynchronously=True) as (other, _):\n"
        "            claimed = await event_log.claim(other, family.name, candidates)\n",
        "tests/e2e/test_failpoints.py::test_a_consumer_dies_at[claimed]",
    ),
    Mutant(
        "no dedupe",
        "worker/postgres/event_log.py",
        "    if len(claimed) == len(candidates):\n        return Claim(frozenset(firsts.values()), ())\n",
        "    return Claim(frozenset(range(len(candidates))), ())\n",
        "tests/e2e/test_failpoints.py::test_a_consumer_dies_at[committed]",
    ),
    Mutant(
        "a changed record counts as stored",
        "consumers/buybacks/lww.py",
        "return Record(values, stamps) if is_changed else self",
        "return Record(values, stamps, self.is_stored) if is_changed else self",
        "tests/integration/test_buyback_rows.py::test_a_row_is_written_that_only_the_first_event_of_a_batch_changes",
    ),
    Mutant(
        "stored rows are written again",
        "consumers/buybacks/store.py",
        "        if not item.is_stored\n",
        "",
        "tests/integration/test_buyback_rows.py::test_rows_that_an_event_does_not_change_are_not_written",
    ),
    Mutant(
        "a batch locks its counter first",
        "worker/outbox/batch_end.py",
        "FROM (SELECT count(*) FROM numbered) AS after_the_numbers",
        "FROM (SELECT 1) AS after_the_numbers",
        "tests/integration/test_batch_end.py",
    ),
    Mutant(
        "an id is a key by itself",
        "worker/postgres/event_log.py",
        "        if contents[envelope.event_id] != envelope.content_id:\n",
        "        if False:\n",
        "tests/integration/test_event_ids.py::test_each_content_under_an_id_is_applied_once",
    ),
    Mutant(
        "a replay follows an id alone",
        "worker/dead_letters/store.py",
        "            FROM event_ids\n"
        "            WHERE event_id = replayed.replayed_as AND content_id = replayed.replayed_content_id\n",
        "            FROM event_ids\n            WHERE event_id = replayed.replayed_as\n",
        "tests/integration/test_event_ids.py::test_a_replay_is_applied_once_its_content_is",
    ),
    Mutant(
        "requeue in place",
        "worker/pipeline/retry_schedule.py",
        "routing_key = queue.name",
        "routing_key = queues.main",
        "tests/unit/test_batch.py::test_a_failure_goes_to_the_next_retry_queue",
    ),
    Mutant(
        "attempts are not counted",
        "worker/pipeline/retry_schedule.py",
        '        "x-attempt": step.attempt,\n',
        '        "x-attempt": 1,\n',
        "tests/unit/test_batch.py::test_a_failure_goes_to_the_next_retry_queue",
    ),
    Mutant(
        "an outage spends attempts",
        "worker/pipeline/transaction.py",
        "    except DatabaseUnavailable:\n        raise\n    except Exception as error:\n",
        "    except Exception as error:\n",
        "tests/e2e/test_outages.py::test_an_outage_of_postgres_longer_than_the_retry_schedule_costs_no_attempt[kill]",
    ),
    Mutant(
        "spool deleted before its confirm",
        "worker/ingest/event_sink.py",
        "        outcomes = await asyncio.gather(",
        "        await spool.remove([entry.number for entry in entries])\n"
        "        outcomes = await asyncio.gather(",
        "tests/integration/test_event_sink.py::test_an_entry_stays_in_the_spool_until_it_is_confirmed",
    ),
    Mutant(
        "a stranger's trace is continued",
        "worker/ingest/service.py",
        "            if self.settings.trust_traceparent and (request.is_from_proxy or claims is not None):\n",
        "            if self.settings.trust_traceparent:\n",
        "tests/integration/test_request_traces.py::test_only_a_trusted_context_is_continued",
    ),
    Mutant(
        "a replay continues the trace of its first publish",
        "worker/dead_letters/replay_message.py",
        '            "traceparent": None,\n',
        "",
        "tests/unit/test_replay.py::test_a_replay_leaves_its_trace_and_names_the_first_one",
    ),
    Mutant(
        "the relay runs at every notification",
        "worker/postgres/notify_poller.py",
        "            await sleep_unless_stopping(began + self.interval - monotonic(), self.stopping)\n",
        "            pass\n",
        "tests/integration/test_notify_poller.py::test_notifications_within_an_interval_cause_one_run",
    ),
    Mutant(
        "a change has its publish in its body",
        "worker/change_feed/relay.py",
        "                made = with_headers(made, span.context.headers)\n",
        "                made = message(change._replace(traceparent=span.context.traceparent))\n",
        "tests/e2e/test_stored_contexts.py::"
        "test_a_change_that_is_published_again_has_the_same_body_and_another_span",
    ),
    Mutant(
        "an action forgets the event that caused it",
        "worker/pipeline/transaction.py",
        "        await action_outbox.enqueue_all(connection, effects.actions, contexts)\n",
        "        await action_outbox.enqueue_all(connection, effects.actions)\n",
        "tests/e2e/test_stored_contexts.py::"
        "test_an_action_has_one_trace_with_its_attempts_and_the_calls_of_the_api",
    ),
    Mutant(
        "an unhandled event forgets its trace",
        "worker/dead_letters/unhandled_replay.py",
        "        message = with_headers(message, {ORIGIN_TRACEPARENT: event.traceparent})\n",
        "        pass\n",
        "tests/e2e/test_stored_contexts.py::"
        "test_a_replay_of_an_unhandled_event_is_linked_to_its_first_publish",
    ),
    Mutant(
        "the end of a process waits for its export",
        "worker/observability/spans.py",
        "        self._thread.join(CLOSE_SECONDS)\n",
        "        self._thread.join()\n",
        "tests/e2e/test_traces.py::test_a_collector_that_never_answers_costs_only_the_spans_beyond_the_bound",
    ),
    Mutant(
        "answer before it is stored",
        "worker/ingest/service.py",
        "            await self._store(accepted, added, trace)\n",
        "            asyncio.ensure_future(self._store(accepted, added, trace))\n",
        "tests/unit/test_service.py::test_an_event_that_cannot_be_stored_is_refused",
    ),
    Mutant(
        "a message does not name a voided sequence number",
        "worker/ingest/event_sink.py",
        "                    self._sequence.void(family, number)\n            except BaseException:",
        "                    self._sequence.voids(family)\n            except BaseException:",
        "tests/integration/test_event_sink.py::test_an_unconfirmed_event_is_spooled_and_its_number_is_voided",
    ),
    Mutant(
        "poison messages are tried without a limit",
        "worker/pipeline/isolation.py",
        "return tries <= poison.TRIES",
        "return tries <= 1000",
        "tests/e2e/test_poison_messages.py::test_of_a_full_buffer_only_the_event_that_ends_its_consumer_is_a_dead_letter",
    ),
    Mutant(
        "a try whose commit got no answer counts again",
        "worker/postgres/poison.py",
        "CASE WHEN stored.last_tried_at = $3 THEN 0 ELSE 1 END",
        "1",
        "tests/e2e/test_poison_messages.py::test_lost_answers_to_commits_make_no_event_a_poison_message",
    ),
    Mutant(
        "a write to a connection that just closed raises",
        "worker/amqp/tap.py",
        "        except ConnectionError:\n",
        "        except ZeroDivisionError:\n",
        "tests/unit/test_tap.py::test_a_publish_or_ack_over_a_connection_that_just_closed_is_lost",
    ),
    Mutant(
        "the client library overtakes messages that wait to be written",
        "worker/amqp/tap.py",
        "        self._write_waiting()\n        super().write(data)\n",
        "        super().write(data)\n",
        "tests/unit/test_tap.py::test_messages_are_written_together_and_nothing_overtakes_them",
    ),
    Mutant(
        "the circuit breaker never opens",
        "worker/pipeline/circuit_breaker.py",
        "return self.failures >= THRESHOLD",
        "return self.failures >= 10 * THRESHOLD",
        "tests/e2e/test_poison_messages.py::test_while_everything_fails_the_queue_is_not_moved_to_the_retry_queues",
    ),
    Mutant(
        "the last to arrive wins",
        "consumers/inventory/decide.py",
        "known is None:\n        latest, rule = _latest(part.latest, change)\n",
        "known is None:\n        latest, rule = change, Rule.NEWEST\n",
        "tests/unit/test_convergence.py",
    ),
    Mutant(
        "an implausible timestamp wins",
        "consumers/inventory/part.py",
        "        if report.is_plausible:\n            received = ",
        "        if True:\n            received = ",
        "tests/unit/test_receptions.py",
    ),
    Mutant(
        "a late event is not compared with its neighbours",
        "consumers/inventory/earlier_events.py",
        "if instant <= latest or instant in crowded}\n",
        "if instant in crowded}\n",
        "tests/unit/test_late_events.py::test_neighbours_lead_to_the_same_as_all_events",
    ),
    Mutant(
        "a late event reads all events of its part",
        "consumers/inventory/earlier_events.py",
        "    if not part.is_current:\n",
        "    if True:\n",
        "tests/unit/test_late_events.py::test_the_cost_of_an_event_does_not_grow_with_the_events_before_it",
    ),
    Mutant(
        "an implausible written_off reads no neighbours",
        "consumers/inventory/earlier_events.py",
        "            instants.add(first)\n            between = (first, since or FOREVER)\n    return",
        "            between = (first, since or FOREVER)\n    return",
        "tests/unit/test_late_events.py::"
        "test_written_off_with_an_implausible_timestamp_withdraws_the_finding_of_the_change_after_it",
    ),
    Mutant(
        "the neighbour before a late event is any earlier event",
        "consumers/inventory/store.py",
        "        ORDER BY occurred_at DESC\n",
        "",
        "tests/integration/test_late_events.py::test_neighbours_lead_to_the_same_tables_as_all_events",
    ),
    Mutant(
        "an earlier reception changes nothing",
        "worker/pipeline/transaction.py",
        "        if claimed.corrected:\n",
        "        if False:\n",
        "tests/integration/test_receptions.py::test_an_earlier_reception_corrects_log_and_part",
    ),
    Mutant(
        "a revision is not checked",
        "consumers/returns/store.py",
        "WHERE stored.revision = excluded.revision - 1\n",
        "",
        "tests/integration/test_conflicts.py",
    ),
    Mutant(
        "the token stays in the body",
        "worker/intake/intake.py",
        "    plain = without_secrets(without, _values(secrets))\n",
        "    plain = body\n",
        "tests/unit/test_intake.py::test_the_token_is_cut_out_and_bank_details_are_encrypted",
    ),
    Mutant(
        "bank details are not encrypted",
        "worker/intake/intake.py",
        "    return encrypt_members(plain, marketplace.private, _required(encryptor))\n",
        "    return plain\n",
        "tests/unit/test_intake.py::test_the_token_is_cut_out_and_bank_details_are_encrypted",
    ),
    Mutant(
        "the last answer to arrive wins",
        "consumers/details.py",
        "max(stored, answer, key=_order_key)",
        "answer",
        "tests/unit/test_details.py",
    ),
    Mutant(
        "a rebuild wipes details",
        "worker/tools/rebuild/comparison.py",
        "        if table.detail_columns:\n",
        "        if False:\n",
        "tests/integration/test_details.py::test_a_rebuild_leaves_details_as_they_are",
    ),
    Mutant(
        "one kind fills the queue of actions",
        "worker/outbox/actions.py",
        "            AND queued.attempts = 0\n",
        "            AND queued.attempts < 0\n",
        "tests/integration/test_actions_queue.py::test_a_backlog_of_one_kind_waits_in_the_table",
    ),
    Mutant(
        "a lost session counts as a failure of an event",
        "worker/postgres/pool.py",
        "        if session.is_closed() or _is_over(error):\n            session.terminate()\n",
        "        if _is_over(error):\n            session.terminate()\n",
        "tests/integration/test_database.py::"
        "test_a_session_that_ends_in_a_transaction_means_unavailable_and_the_next_one_works[end_by_message]",
    ),
    Mutant(
        "sessions to a read-only server are kept",
        "worker/postgres/pool.py",
        "            self._close_sessions(idle_only=False)\n",
        "",
        "tests/integration/test_database.py::"
        "test_once_a_server_takes_no_writes_all_sessions_to_it_are_closed",
    ),
    Mutant(
        "an outdated plan spends an attempt",
        "worker/postgres/pool.py",
        "    asyncpg.InvalidCachedStatementError,\n",
        "",
        "tests/integration/test_schema_changes.py::"
        "test_columns_that_are_added_meanwhile_cost_no_attempt[buybacks]",
    ),
    Mutant(
        "properties that cannot be read end the connection",
        "worker/amqp/codec.py",
        "with suppress(ValueError, IndexError, struct_error):",
        "with suppress(ZeroDivisionError):",
        "tests/unit/test_tap.py",
    ),
    Mutant(
        "deliveries held while the broker confirms nothing are released",
        "worker/amqp/publisher.py",
        "at_most=LONGEST_UNCONFIRMED_SECONDS",
        "at_most=0.0",
        "tests/unit/test_holding.py",
    ),
    Mutant(
        "deliveries are released at the hold limit",
        "worker/amqp/subscription.py",
        "            if session.has_reached_hold_limit or session.is_switched_off:\n",
        "            if session.is_switched_off:\n",
        "tests/integration/test_sessions.py::test_an_outage_beyond_the_hold_limit_costs_no_delivery",
    ),
    Mutant(
        "deliveries are released when a user pauses the family",
        "worker/amqp/subscription.py",
        " or session.is_switched_off:\n",
        ":\n",
        "tests/integration/test_sessions.py::test_pauses_of_a_family_cost_no_delivery",
    ),
    Mutant(
        "a family that waits for the database does not obey a pause",
        "worker/amqp/subscription.py",
        "            work.cancel()\n",
        "            pass\n",
        "tests/integration/test_sessions.py::test_pauses_of_a_family_cost_no_delivery",
    ),
    Mutant(
        "events are consumed before the pauses are known",
        "worker/processes/consumer_process.py",
        "            await _when_available(pauses.read, stopping)\n",
        "",
        "tests/e2e/test_pauses.py::test_a_pause_outlives_the_consumers_and_an_outage_of_postgres",
    ),
    Mutant(
        "a session ends before its subscriptions are cancelled",
        "worker/amqp/subscription.py",
        " and not self.channel.has_consumers:\n",
        ":\n",
        "tests/integration/test_sessions.py::"
        "test_no_delivery_is_repeated_when_a_session_ends_at_its_age_limit",
    ),
    Mutant(
        "a consumer that holds deliveries is cancelled when its prefetch changes",
        "worker/pipeline/consumer.py",
        "                    await session.subscribe()\n",
        "                    await session.stop_deliveries()\n"
        "                    await session.subscribe()\n",
        "tests/integration/test_sessions.py::"
        "test_a_consumer_that_leaves_isolation_is_not_cancelled_while_it_holds_a_delivery",
    ),
    Mutant(
        "a session is never replaced",
        "worker/amqp/subscription.py",
        "        self._is_ending = True\n",
        "        return\n",
        "tests/integration/test_sessions.py::"
        "test_a_message_whose_ack_was_lost_leaves_the_queue_after_the_next_session[family]",
    ),
    Mutant(
        "a body that ends early is whole",
        "worker/ingest/http_connection.py",
        "            self._incoming.fail()\n",
        "            self._incoming.complete()\n",
        "tests/integration/test_http_server.py::"
        "test_a_request_is_answered_as_its_bytes_deserve_and_stored_if_it_is_whole",
    ),
    Mutant(
        "a body that is still arriving has no deadline",
        "worker/ingest/http_body.py",
        "        return self._is_complete\n",
        "        return True\n",
        "tests/integration/test_http_server.py::test_a_body_whose_rest_does_not_arrive_is_too_slow",
    ),
    Mutant(
        "the last value of a repeated header counts",
        "worker/ingest/http_messages.py",
        'f"{headers[name]}, {value}" if name in headers else value',
        "value",
        "tests/integration/test_http_server.py::"
        "test_a_request_is_answered_as_its_bytes_deserve_and_stored_if_it_is_whole",
    ),
    Mutant(
        "idle connections get the deadline of half-sent headers",
        "worker/ingest/http_connection.py",
        "is_reading_head:\n                self._watch(self._idle_seconds)\n",
        "is_reading_head:\n                self._watch(self._limits.header_seconds)\n",
        "tests/integration/test_http_server.py::"
        "test_an_answered_connection_stays_idle_longer_than_a_head_may_take",
    ),
    Mutant(
        "a request that arrived whole is closed for another connection",
        "worker/ingest/http_connection.py",
        "        return self._current is None or not self._current.body.is_whole()\n",
        "        return True\n",
        "tests/integration/test_ingest_limits.py::"
        "test_a_complete_request_is_answered_with_any_number_of_connections",
    ),
    Mutant(
        "an unauthenticated body may take as long as any other",
        "worker/ingest/body_reader.py",
        "        if has_secret:\n            return self.body_timeout\n",
        "        if True:\n            return self.body_timeout\n",
        "tests/unit/test_service.py::test_a_body_of_a_stranger_must_keep_arriving",
    ),
    Mutant(
        "a client address is accepted from any sender",
        "worker/ingest/trusted_proxies.py",
        "        if self.include(peer):\n",
        "        if True:\n",
        "tests/unit/test_trusted_proxies.py::test_the_header_of_an_untrusted_peer_is_ignored",
    ),
    Mutant(
        "bank details are not recognized by a name in other letters than ASCII",
        "worker/intake/encryption.py",
        '        plain = _without_punctuation(body.decode(errors="replace"))\n',
        '        plain = body.decode(errors="replace").lower()\n',
        "tests/unit/test_encryption.py::test_no_white_space_or_punctuation_in_a_name_hides_bank_details",
    ),
    Mutant(
        "the ids of an event depend on its token",
        "worker/intake/intake.py",
        "        del document[member]\n",
        "        pass\n",
        "tests/unit/test_intake.py",
    ),
    Mutant(
        "an inner container ends at its first bracket",
        "worker/intake/json_bytes.py",
        '        depth += 1 if body[position - 1] in b"{[" else -1\n',
        "        depth -= 1\n",
        "tests/unit/test_body.py::test_the_outermost_members_are_the_same_if_inner_ones_are_skipped",
    ),
    Mutant(
        "a wrong signature of a gateway is accepted",
        "worker/ingest/service.py",
        "        if not isinstance(outcome, Verified):\n",
        "        if False:\n",
        "tests/unit/test_gateway.py::test_a_refusal_names_the_rule_and_never_the_value",
    ),
    Mutant(
        "an old timestamp of a gateway is accepted",
        "worker/intake/signature.py",
        "    if abs(int(timestamp) - now.timestamp()) > scheme.tolerance:\n",
        "    if False:\n",
        "tests/unit/test_gateway.py::test_a_timestamp_outside_of_the_tolerance_is_refused",
    ),
    Mutant(
        "a renewed certificate is not noticed",
        "worker/ingest/tls.py",
        "        if not is_requested and self.trouble is None and seen == self._seen:\n",
        "        if not is_requested and self.trouble is None:\n",
        "tests/integration/test_ingest_tls.py::test_a_renewed_certificate_is_used_and_no_connection_ends",
    ),
    Mutant(
        "a host that failed is tried first again",
        "worker/amqp/hosts.py",
        "    return host.failed_at is not None and now - host.failed_at < FAILED_SECONDS\n",
        "    return False\n",
        "tests/unit/test_hosts.py",
    ),
    Mutant(
        "a lost connection is no failure of its host",
        "worker/amqp/connection.py",
        "                    if connection.is_lost:\n",
        "                    if False:\n",
        "tests/integration/test_broker_hosts.py::test_a_host_whose_connection_was_lost_is_tried_last",
    ),
    Mutant(
        "the console accepts a form without its token",
        "worker/console/application.py",
        '            if not session.accepts(request.state.form.get("token", "")):\n',
        "            if False:\n",
        "tests/unit/test_console_access.py::test_a_form_without_the_sessions_token_changes_nothing",
    ),
    Mutant(
        "the console checks no role",
        "worker/console/access.py",
        "    if role not in session.user.roles:\n",
        "    if False:\n",
        "tests/unit/test_console_access.py::test_each_route_needs_the_role_that_the_table_lists",
    ),
    Mutant(
        "a page of an entity sorts all its events",
        "worker/tools/explain/lookup.py",
        'PLAN_BY_TIME = "SET LOCAL enable_sort = off; ',
        'PLAN_BY_TIME = "',
        "tests/integration/test_console_entities.py::"
        "test_a_page_of_a_long_history_reads_the_events_that_it_shows",
    ),
    Mutant(
        "a page of an entity repeats the events of its last instant",
        "worker/tools/explain/lookup.py",
        "    AND (occurred_at, seq) < ($5::timestamptz, $6::bigint)\n",
        "    AND (occurred_at, 0) <= ($5::timestamptz, $6::bigint)\n",
        "tests/integration/test_console_entities.py::"
        "test_a_long_history_is_in_the_order_of_happening_whenever_it_was_applied",
    ),
    Mutant(
        "the console shows what cannot be read as 0",
        "worker/console/pipeline.py",
        "    return None if None in values else sum(value or 0 for value in values)\n",
        "    return sum(value or 0 for value in values)\n",
        "tests/unit/test_console_pipeline.py::test_what_cannot_be_read_is_none_and_has_a_reason",
    ),
    Mutant(
        "the console needs no role for a change",
        "worker/console/application.py",
        "            require(session, role)\n            if changes and",
        "            if changes and",
        "tests/unit/test_console_access.py::test_each_route_needs_the_role_that_the_table_lists",
    ),
    Mutant(
        "a reader may discard a dead letter",
        "worker/console/routes.py",
        'Action("/dead-letters/{dead_letter_id}/discard", Role.OPERATOR,',
        'Action("/dead-letters/{dead_letter_id}/discard", Role.READER,',
        "tests/unit/test_console_access.py::"
        "test_the_table_gives_readers_no_action_and_operators_no_personal_data",
    ),
    Mutant(
        "an operator may reveal a dead letter",
        "worker/console/routes.py",
        'Action("/dead-letters/{dead_letter_id}/reveal", Role.REVEALER,',
        'Action("/dead-letters/{dead_letter_id}/reveal", Role.OPERATOR,',
        "tests/unit/test_console_access.py::"
        "test_the_table_gives_readers_no_action_and_operators_no_personal_data",
    ),
    Mutant(
        "a read-only console changes something",
        "worker/console/application.py",
        "            if changes and self.console.settings.console_read_only:\n",
        "            if False:\n",
        "tests/unit/test_console_access.py::"
        "test_every_change_needs_a_token_and_a_console_that_is_not_read_only",
    ),
    Mutant(
        "a body is revealed without a record",
        "worker/console/screens/dead_letter_actions.py",
        "    await note_revealed(console.database, letter.dead_letter_id, who, reason)\n",
        "",
        "tests/integration/test_console_dead_letter.py::test_what_cannot_be_recorded_is_not_shown",
    ),
    Mutant(
        "a body is edited without a record of its reader",
        "worker/console/screens/dead_letter_actions.py",
        '    await note_revealed(console.database, number, request.user.name, f"to edit it: {reason}")\n',
        "",
        "tests/integration/test_console_dead_letter.py::test_what_cannot_be_recorded_is_not_shown",
    ),
    Mutant(
        "a job takes letters that came back",
        "worker/dead_letters/bulk_jobs.py",
        'replace(selection, states=STATES[kind], last_id=values["last_id"])',
        "replace(selection, states=STATES[kind])",
        "tests/e2e/test_bulk_jobs.py::test_letters_that_arrive_after_the_confirmation_are_not_taken",
    ),
    Mutant(
        "a replay of a killed process starts from the beginning",
        "worker/dead_letters/job_runner.py",
        "            position=job.position,\n",
        "            position=0,\n",
        "tests/e2e/test_bulk_jobs.py::"
        "test_a_job_of_a_process_that_ended_continues_after_the_letters_that_it_handled",
    ),
    Mutant(
        "a dry run of a killed process starts from the beginning",
        "worker/dead_letters/job_runner.py",
        "        position = job.position\n",
        "        position = 0\n",
        "tests/e2e/test_bulk_jobs.py::"
        "test_a_job_of_a_process_that_ended_continues_after_the_letters_that_it_handled",
    ),
    Mutant(
        "a form that is sent twice starts two jobs",
        "worker/dead_letters/bulk_jobs.py",
        "        if made:\n",
        "        if False:\n",
        "tests/e2e/test_bulk_jobs.py::test_a_form_that_is_sent_twice_starts_one_job",
    ),
    Mutant(
        "the last lines of a process wait for the pause of the log",
        "worker/observability/stderr.py",
        "            self._wake()\n            self._all_written",
        "            self._all_written",
        "tests/unit/test_stderr.py::"
        "test_lines_of_a_pause_are_written_when_half_of_the_queue_is_full_or_at_the_end",
    ),
    Mutant(
        "a log that is written fast is dropped because of the pause",
        "worker/observability/stderr.py",
        "QUEUE_BYTES // 2 if data else 0",
        "QUEUE_BYTES if data else 0",
        "tests/unit/test_stderr.py::"
        "test_lines_of_a_pause_are_written_when_half_of_the_queue_is_full_or_at_the_end",
    ),
    Mutant(
        "a line in the middle of a write waits forever",
        "worker/observability/stderr.py",
        "threading.RLock()",
        "threading.Lock()",
        "tests/unit/test_stderr.py::test_a_line_that_is_written_in_the_middle_of_a_write_waits_for_nothing",
    ),
    Mutant(
        "a line that cannot be rendered ends the work",
        "worker/observability/logging.py",
        "partial(_render_safely, render)",
        "render",
        "tests/unit/test_logging.py::test_a_line_that_cannot_be_rendered_disturbs_nothing",
    ),
)
