-- status: 0 created, 1 was there, 2 the id is in use elsewhere. A location in use is a unique violation.
CREATE FUNCTION {s}.open_channel(
    a_id text, a_endpoint text, a_gateway boolean, a_place text, a_connection text, a_opening bytea,
    a_user text, a_value bytea, a_grace bigint, a_token bytea, a_due bigint, OUT o_status smallint, OUT o_channel {s}.channel
) LANGUAGE plpgsql AS $$
BEGIN
    LOOP
        INSERT INTO {s}.channel (
            id, endpoint, generation, phase, at_gateway, place, connection, opening, state_version, session_version,
            user_id, user_value, grace, opened_at, token, due
        ) VALUES (
            a_id, a_endpoint, 1, 0, a_gateway, a_place, a_connection, a_opening, 0,
            CASE WHEN a_user IS NULL THEN 0 ELSE 1 END, a_user, a_value, a_grace, clock_timestamp(), a_token,
            clock_timestamp() + {s}.millis(a_due)
        ) ON CONFLICT (id) DO NOTHING RETURNING * INTO o_channel;
        IF FOUND THEN
            o_status := 0;
            RETURN;
        END IF;
        SELECT * INTO o_channel FROM {s}.channel WHERE id = a_id;
        IF FOUND THEN
            o_status := CASE WHEN (o_channel.at_gateway, o_channel.place, o_channel.connection)
                = (a_gateway, a_place, a_connection) THEN 1 ELSE 2 END;
            RETURN;
        END IF;
    END LOOP;
END
$$;

-- status: 0 attached, 1 refused. The displaced location is null if no connection was displaced.
CREATE FUNCTION {s}.attach_channel(
    a_id text, a_token bytea, a_generation bigint, a_gateway boolean, a_place text, a_connection text, a_next bytea,
    OUT o_status smallint, OUT o_channel {s}.channel,
    OUT o_displaced_gateway boolean, OUT o_displaced_place text, OUT o_displaced_connection text
) LANGUAGE plpgsql AS $$
DECLARE
    c {s}.channel;
    moved boolean;
    admitted boolean;
BEGIN
    o_status := 1;
    SELECT * INTO c FROM {s}.channel WHERE id = a_id FOR UPDATE;
    IF NOT FOUND OR c.phase = 3 THEN RETURN; END IF;
    moved := (c.at_gateway, c.place, c.connection) <> (a_gateway, a_place, a_connection);
    IF a_token IS NOT NULL THEN
        admitted := coalesce(a_token = c.token, false) OR coalesce(a_token = c.previous_token, false);
    ELSE
        -- The second case is the same call again, after its answer was lost.
        admitted := a_generation = c.generation
            OR (a_generation + 1 = c.generation AND NOT moved AND c.phase <> 2);
    END IF;
    IF NOT admitted THEN RETURN; END IF;
    o_status := 0;
    IF moved AND c.phase <> 2 THEN
        o_displaced_gateway := c.at_gateway;
        o_displaced_place := c.place;
        o_displaced_connection := c.connection;
    END IF;
    UPDATE {s}.channel SET
        generation = c.generation + 1,
        phase = CASE WHEN c.phase = 2 THEN 1 ELSE c.phase END,
        at_gateway = a_gateway, place = a_place, connection = a_connection, due = NULL,
        -- The token that was shown, else the present one, stays valid until the next one is confirmed.
        previous_token = CASE WHEN a_next IS NULL THEN c.previous_token ELSE coalesce(a_token, c.token) END,
        token = coalesce(a_next, c.token)
        WHERE id = a_id RETURNING * INTO o_channel;
END
$$;

-- status: 0 done, 1 conflict, 2 stale.
CREATE FUNCTION {s}.write_channel(
    a_id text, a_generation bigint, a_opened boolean, a_confirmed boolean,
    a_state_expected bigint, a_state bytea, a_session_expected bigint, a_user text, a_value bytea,
    OUT o_status smallint, OUT o_channel {s}.channel
) LANGUAGE plpgsql AS $$
BEGIN
    SELECT * INTO o_channel FROM {s}.channel WHERE id = a_id FOR NO KEY UPDATE;
    IF NOT FOUND OR o_channel.generation <> a_generation THEN
        o_status := 2;
        RETURN;
    END IF;
    IF a_state_expected <> o_channel.state_version OR a_session_expected <> o_channel.session_version THEN
        o_status := 1;
        RETURN;
    END IF;
    o_status := 0;
    UPDATE {s}.channel SET
        phase = CASE WHEN a_opened AND phase = 0 THEN 1 ELSE phase END,
        previous_token = CASE WHEN a_confirmed THEN NULL ELSE previous_token END,
        state_version = state_version + CASE WHEN a_state_expected IS NULL THEN 0 ELSE 1 END,
        state = CASE WHEN a_state_expected IS NULL THEN state ELSE a_state END,
        session_version = session_version + CASE WHEN a_session_expected IS NULL THEN 0 ELSE 1 END,
        user_id = CASE WHEN a_session_expected IS NULL THEN user_id ELSE a_user END,
        user_value = CASE WHEN a_session_expected IS NULL THEN user_value ELSE a_value END
        WHERE id = a_id;
END
$$;

CREATE FUNCTION {s}.topics_of(a_channel text) RETURNS text[] LANGUAGE sql VOLATILE AS $$
    SELECT coalesce(array_agg(t.name), '{}')
    FROM {s}.member m JOIN {s}.topic t ON t.id = m.topic WHERE m.channel = a_channel
$$;

-- Makes channels tombstones with a claim, or takes tombstones over. The caller has locked them.
CREATE FUNCTION {s}.bury(ids text[], a_ttl bigint) RETURNS SETOF {s}.channel LANGUAGE sql AS $$
    UPDATE {s}.channel SET
        phase = 3, generation = generation + 1, due = clock_timestamp() + {s}.millis(a_ttl), claimant = NULL
    WHERE id = ANY (ids) RETURNING *
$$;

-- The second case is the same call again, after its answer was lost.
CREATE FUNCTION {s}.claim_channel(a_id text, a_generation bigint, a_claimant text, a_ttl bigint)
RETURNS SETOF {s}.channel LANGUAGE sql AS $$
    UPDATE {s}.channel SET
        phase = 3, generation = a_generation + 1, due = clock_timestamp() + {s}.millis(a_ttl), claimant = a_claimant
    WHERE id = a_id AND (
        (generation = a_generation AND (phase < 3 OR due <= clock_timestamp()))
        OR (generation = a_generation + 1 AND phase = 3 AND claimant = a_claimant)
    ) RETURNING *
$$;

-- Leaves channels of dead nodes to other nodes: they become tombstones that are due at once. The caller has locked
-- them.
CREATE FUNCTION {s}.leave_to_others(ids text[], a_endpoints text[]) RETURNS void LANGUAGE sql AS $$
    UPDATE {s}.channel SET phase = 3, generation = generation + 1, due = clock_timestamp(), claimant = NULL
    WHERE id = ANY (ids) AND phase < 2 AND endpoint <> ALL (a_endpoints)
$$;

-- Claims due channels. Channels that another session works on are left for the next time. Where endpoints are named,
-- channels of other endpoints are left to other nodes until they have been due for so long.
CREATE FUNCTION {s}.claim_due(most bigint, a_ttl bigint, a_endpoints text[], a_patience bigint) RETURNS SETOF {s}.channel LANGUAGE plpgsql AS $$
DECLARE
    now_at timestamptz := clock_timestamp(); -- What changes from row to row could not be looked up in an index.
    ids text[];
    dead text;
    at_once CONSTANT bigint := greatest(most, 1024);
BEGIN
    -- A node's lease ends with its row: while the row is there, even after its time, the channels are the node's. A
    -- renewal under way has locked the row, so it is passed over here; a later renewal finds no row.
    DELETE FROM {s}.node WHERE id = ANY (ARRAY(
        SELECT id FROM {s}.node WHERE until <= now_at FOR UPDATE SKIP LOCKED
    ));
    ids := ARRAY(
        SELECT id FROM {s}.channel WHERE due <= now_at
            AND (a_endpoints IS NULL OR endpoint = ANY (a_endpoints) OR due <= now_at - {s}.millis(a_patience))
            ORDER BY due LIMIT most
        FOR NO KEY UPDATE SKIP LOCKED
    );
    RETURN QUERY SELECT * FROM {s}.bury(ids, a_ttl);
    most := most - cardinality(ids);
    FOR dead IN
        WITH RECURSIVE node (id) AS (
            (SELECT place FROM {s}.channel WHERE NOT at_gateway AND phase < 2 ORDER BY place LIMIT 1)
            UNION ALL
            SELECT (
                SELECT c.place FROM {s}.channel c WHERE NOT c.at_gateway AND c.phase < 2 AND c.place > node.id
                ORDER BY c.place LIMIT 1
            ) FROM node WHERE node.id IS NOT NULL
        )
        SELECT id FROM node WHERE id IS NOT NULL AND NOT EXISTS (SELECT FROM {s}.node n WHERE n.id = node.id)
    LOOP
        EXIT WHEN most <= 0;
        ids := ARRAY(
            SELECT id FROM {s}.channel WHERE NOT at_gateway AND phase < 2 AND place = dead LIMIT at_once
            FOR NO KEY UPDATE SKIP LOCKED
        );
        -- The node may have come back meanwhile.
        CONTINUE WHEN EXISTS (SELECT FROM {s}.node n WHERE n.id = dead);
        UPDATE {s}.channel SET phase = 2, due = clock_timestamp() + {s}.millis(grace)
            WHERE id = ANY (ids) AND phase = 1 AND grace IS NOT NULL;
        PERFORM {s}.leave_to_others(ids, a_endpoints);
        ids := ARRAY(SELECT id FROM {s}.channel WHERE id = ANY (ids) AND phase < 2 LIMIT most);
        RETURN QUERY SELECT * FROM {s}.bury(ids, a_ttl);
        most := most - cardinality(ids);
    END LOOP;
END
$$;
