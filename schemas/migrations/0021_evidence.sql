-- migrate:up
ALTER TABLE event_log ADD COLUMN evidence jsonb;
COMMENT ON COLUMN event_log.evidence IS 'How the gateway and the proxy in front of the ingest name the request (gateway_event, gateway_attempt, gateway_request, gateway_url, request_id), as the sender says and unsigned; null if nothing was said';
ALTER TABLE dead_letters ADD COLUMN evidence jsonb;
COMMENT ON COLUMN dead_letters.evidence IS 'As in event_log';

-- migrate:down
ALTER TABLE dead_letters DROP COLUMN evidence;
ALTER TABLE event_log DROP COLUMN evidence;
