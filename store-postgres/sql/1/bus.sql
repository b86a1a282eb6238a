-- Puts a node on the bus, for a time, under a number of its own; false if a node of that name is on it. A node whose
-- answer was lost asks again, and gets another place.
CREATE FUNCTION {s}.join_bus(a_id text, a_ttl bigint, a_holder text, a_number bigint) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    PERFORM {s}.sweep_bus();
    PERFORM {s}.leave_bus(number, id) FROM {s}.hearer WHERE id = a_id AND holder = a_holder;
    INSERT INTO {s}.hearer (number, id, holder, until)
        VALUES (a_number, a_id, a_holder, clock_timestamp() + {s}.millis(a_ttl)) ON CONFLICT (id) DO NOTHING;
    RETURN FOUND;
END
$$;

CREATE FUNCTION {s}.leave_bus(a_node bigint, a_id text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM {s}.hearer WHERE number = a_node AND id = a_id;
    IF FOUND THEN PERFORM {s}.clear_place(a_node); END IF;
END
$$;

CREATE FUNCTION {s}.clear_place(a_node bigint) RETURNS void LANGUAGE sql AS $$
    DELETE FROM {s}.interest WHERE node = a_node;
    DELETE FROM {s}.mail WHERE node = a_node;
$$;

-- Takes silent nodes off the bus.
CREATE FUNCTION {s}.sweep_bus() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    now_at timestamptz := clock_timestamp(); -- What changes from row to row could not be looked up in an index.
    gone bigint;
BEGIN
    FOR gone IN
        DELETE FROM {s}.hearer WHERE number = ANY (ARRAY(
            SELECT number FROM {s}.hearer WHERE until <= now_at FOR UPDATE SKIP LOCKED
        )) RETURNING number
    LOOP
        PERFORM {s}.clear_place(gone);
    END LOOP;
END
$$;

-- Keeps a node on the bus for another time; false if the node is no longer on it.
CREATE FUNCTION {s}.beat_bus(a_node bigint, a_id text, a_ttl bigint) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    is_on boolean;
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    UPDATE {s}.hearer SET until = clock_timestamp() + {s}.millis(a_ttl) WHERE number = a_node AND id = a_id;
    is_on := FOUND;
    PERFORM {s}.sweep_bus();
    RETURN is_on;
END
$$;

-- Ends and begins hearing. No rows and an error if the node is not on the bus. Publications after the answered head
-- find the row of interest: both hold the topic's lock. A node numbers its calls (a_asked). The state of a later call
-- holds, also if an earlier one comes after it, from a connection that was given up say.
CREATE FUNCTION {s}.hear(a_node bigint, a_id text, begin_at text[], end_at text[], a_asked bigint)
RETURNS TABLE (o_name text, o_topic bigint, o_epoch bigint, o_number bigint, o_mark bigint) LANGUAGE plpgsql AS $$
DECLARE
    t {s}.topic;
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    PERFORM FROM {s}.hearer WHERE number = a_node AND id = a_id FOR KEY SHARE;
    IF NOT FOUND THEN RAISE EXCEPTION 'the node is not on the bus' USING ERRCODE = 'STR01'; END IF;
    DELETE FROM {s}.interest i USING {s}.topic p
        WHERE p.name = ANY (end_at) AND i.topic = p.id AND i.node = a_node AND i.asked < a_asked;
    FOR o_name IN SELECT DISTINCT u.name COLLATE "C" FROM unnest(begin_at) u (name) ORDER BY 1 LOOP
        LOOP
            SELECT * INTO t FROM {s}.topic p WHERE p.name = o_name FOR SHARE;
            EXIT WHEN FOUND;
            INSERT INTO {s}.topic (name, epoch) VALUES (o_name, {s}.new_epoch()) ON CONFLICT (name) DO NOTHING;
        END LOOP;
        INSERT INTO {s}.interest AS i (topic, node, asked) VALUES (t.id, a_node, a_asked)
            ON CONFLICT (topic, node) DO UPDATE SET asked = excluded.asked WHERE i.asked < excluded.asked;
        o_topic := t.id;
        o_epoch := t.epoch;
        o_number := t.head;
        o_mark := t.head_mark;
        RETURN NEXT;
    END LOOP;
END
$$;

-- Ends interest that no call later than a_asked has asked for: in topics that a node does not want, and hears all the
-- same.
CREATE FUNCTION {s}.unhear(a_node bigint, unwanted bigint[], a_asked bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    DELETE FROM {s}.interest WHERE node = a_node AND topic = ANY (unwanted) AND asked <= a_asked;
END
$$;

-- Puts commands into a node's mailbox; false if there is no such node, an error if it is full. They stay until the node
-- has taken them, or its place has ended.
CREATE FUNCTION {s}.send_commands(
    a_id text, most bigint, notes text[], kinds smallint[], formats smallint[], payloads bytea[], publishers text[],
    turns bigint[], excludes text[]
) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    to_node bigint;
BEGIN
    -- A session that takes the place away waits for this lock, and then finds the commands.
    SELECT number INTO to_node FROM {s}.hearer WHERE id = a_id AND until > clock_timestamp() FOR KEY SHARE;
    IF NOT FOUND THEN RETURN false; END IF;
    IF (SELECT count(*) FROM (SELECT FROM {s}.mail WHERE node = to_node LIMIT most) m) >= most THEN
        RAISE EXCEPTION 'the node''s mailbox is full, it does not read' USING ERRCODE = 'STR02';
    END IF;
    INSERT INTO {s}.mail (node, seq, at, note, kind, format, payload, publisher, turn, exclude)
        SELECT to_node, nextval('{s}.feed_seq'), clock_timestamp(), u.*
        FROM unnest(notes, kinds, formats, payloads, publishers, turns, excludes) u;
    PERFORM set_config('synchronous_commit', 'off', true);
    RETURN true;
END
$$;

-- Deletes the commands that a node has taken out of its mailbox.
CREATE FUNCTION {s}.take_mail(a_node bigint, taken bigint[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    DELETE FROM {s}.mail WHERE node = a_node AND seq = ANY (taken);
END
$$;

-- Turns the ring of the feed. A slot that has been written to for ten seconds gives its turn to a free one, and is
-- sealed. It is closed ten seconds later, when every node has read it. It is emptied another five seconds later, when
-- no node looks into it any more.
CREATE FUNCTION {s}.rotate_feed() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    now_at CONSTANT timestamptz := clock_timestamp();
    n {s}.turn;
    k {s}.slot;
    is_used boolean;
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    SELECT * INTO n FROM {s}.turn WHERE one FOR NO KEY UPDATE SKIP LOCKED;
    IF NOT FOUND THEN RETURN; END IF;
    FOR k IN SELECT * FROM {s}.slot ORDER BY slot LOOP
        IF k.closed_at IS NOT NULL THEN
            IF k.closed_at < now_at - interval '5 seconds' THEN PERFORM {s}.empty_slot(k, n.slot); END IF;
        ELSIF k.sealed_at IS NOT NULL THEN
            UPDATE {s}.slot SET closed_at = now_at
                WHERE slot = k.slot AND k.sealed_at < now_at - interval '10 seconds';
        ELSE
            EXECUTE format('SELECT EXISTS (SELECT FROM {s}.feed_%s)', k.slot) INTO is_used;
            IF is_used AND k.slot <> n.slot THEN
                UPDATE {s}.slot SET sealed_at = clock_timestamp(), sealed = pg_current_snapshot() WHERE slot = k.slot;
            ELSIF is_used AND n.since < now_at - interval '10 seconds' THEN
                UPDATE {s}.turn SET since = now_at, slot = coalesce((
                    SELECT f.slot FROM {s}.slot f WHERE f.sealed_at IS NULL AND f.slot <> k.slot
                    ORDER BY (f.slot - k.slot + 4) % 4 LIMIT 1
                ), k.slot) WHERE one RETURNING * INTO n;
            END IF;
        END IF;
    END LOOP;
END
$$;

-- Empties a closed slot, unless another session uses it: a dump, or a publication that has yet to commit. Nodes may not
-- have read rows that became visible after the seal: these are written anew. Nodes that have read them pass over them.
CREATE FUNCTION {s}.empty_slot(k {s}.slot, current smallint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    is_free boolean := true;
BEGIN
    BEGIN
        EXECUTE format('LOCK TABLE {s}.feed_%s IN ACCESS EXCLUSIVE MODE NOWAIT', k.slot);
    EXCEPTION WHEN lock_not_available THEN
        is_free := false;
    END;
    EXECUTE format(
        'WITH late AS ( '
            'INSERT INTO {s}.feed (slot, seq, at, topic, epoch, number, mark, kind, format, payload, publisher, turn, exclude) '
            'SELECT $1, seq, at, topic, epoch, number, mark, kind, format, payload, publisher, turn, exclude FROM {s}.feed_%s '
            'WHERE xid >= pg_snapshot_xmax($2) OR xid = ANY (ARRAY(SELECT pg_snapshot_xip($2))) '
        ') UPDATE {s}.slot SET sealed = pg_current_snapshot() WHERE slot = $3', k.slot
    ) USING current, k.sealed, k.slot;
    IF is_free THEN
        EXECUTE format('TRUNCATE {s}.feed_%s', k.slot);
        UPDATE {s}.slot SET sealed_at = NULL, sealed = NULL, closed_at = NULL WHERE slot = k.slot;
    END IF;
END
$$;

-- Drops too old events and forgets unused topics, a part at a time, in one process at a time. Answers whether it found
-- so much that the next part should not wait: else more could come than goes. Topics that fail are passed over.
CREATE FUNCTION {s}.sweep_topics(most bigint) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    now_at timestamptz := clock_timestamp();
    w {s}.sweep;
    part record;
    keys bigint;
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    SELECT * INTO w FROM {s}.sweep WHERE one FOR UPDATE SKIP LOCKED;
    IF NOT FOUND OR w.pause_until > clock_timestamp() THEN RETURN false; END IF;
    DELETE FROM {s}.key WHERE (topic, hash) IN (
        SELECT topic, hash FROM {s}.key WHERE until <= now_at ORDER BY until LIMIT 1000
    );
    GET DIAGNOSTICS keys = ROW_COUNT;
    BEGIN
        SELECT * INTO part FROM {s}.sweep_part(w.after_topic, most, false);
    EXCEPTION WHEN data_exception OR integrity_constraint_violation OR program_limit_exceeded THEN
        SELECT * INTO part FROM {s}.sweep_part(w.after_topic, most, true);
    END;
    w.after_topic := part.o_last;
    IF part.o_seen < most THEN
        -- Once around: again in a while.
        w.after_topic := 0;
        w.pause_until := clock_timestamp() + interval '2 seconds';
    END IF;
    UPDATE {s}.sweep SET after_topic = w.after_topic, pause_until = w.pause_until WHERE one;
    RETURN keys = 1000 OR part.o_seen = most AND part.o_swept * 10 > most;
END
$$;

-- Sweeps the next topics. With singly, each topic has a subtransaction of its own, and those that fail are passed over.
-- That takes ten times as long, as each subtransaction plans anew.
CREATE FUNCTION {s}.sweep_part(
    after bigint, most bigint, singly boolean, OUT o_last bigint, OUT o_seen bigint, OUT o_swept bigint
) LANGUAGE plpgsql AS $$
DECLARE
    t {s}.topic;
    broken text;
    reason text;
BEGIN
    o_last := after;
    o_seen := 0;
    o_swept := 0;
    FOR t IN SELECT * FROM {s}.topic WHERE id > after ORDER BY id LIMIT most LOOP
        o_seen := o_seen + 1;
        o_last := t.id;
        IF NOT singly THEN
            o_swept := o_swept + {s}.sweep_topic(t);
            CONTINUE;
        END IF;
        BEGIN
            o_swept := o_swept + {s}.sweep_topic(t);
        EXCEPTION WHEN data_exception OR integrity_constraint_violation OR program_limit_exceeded THEN
            broken := t.name;
            reason := SQLERRM;
        END;
    END LOOP;
    IF broken IS NOT NULL THEN RAISE WARNING 'topic % cannot be swept: %', broken, reason; END IF;
END
$$;

-- Sweeps one topic; answers how much there was to do.
CREATE FUNCTION {s}.sweep_topic(t {s}.topic) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    first bigint;
    swept bigint := 0;
BEGIN
    IF t.before IS NOT NULL AND t.before + 1 IS DISTINCT FROM {s}.first_kept(t) THEN
        SELECT * INTO t FROM {s}.topic WHERE id = t.id FOR NO KEY UPDATE SKIP LOCKED;
        IF NOT FOUND THEN RETURN 0; END IF;
        first := {s}.first_kept(t);
        IF t.before + 1 IS DISTINCT FROM first THEN
            t.before_mark := (SELECT l.mark FROM {s}.log l WHERE l.topic = t.id AND l.number = first - 1);
            DELETE FROM {s}.log l WHERE l.topic = t.id AND l.number > t.before AND (l.number < first) IS NOT FALSE;
            t.before := first - 1;
            PERFORM {s}.save_topic(t);
            swept := swept + 1;
        END IF;
    END IF;
    IF t.before IS NULL AND {s}.is_unknown(t) THEN
        PERFORM FROM {s}.topic WHERE id = t.id FOR UPDATE SKIP LOCKED;
        IF FOUND THEN
            SELECT * INTO t FROM {s}.topic WHERE id = t.id;
            IF t.before IS NULL AND {s}.is_unknown(t) THEN
                DELETE FROM {s}.topic WHERE id = t.id;
                swept := swept + 1;
            END IF;
        END IF;
    END IF;
    RETURN swept;
END
$$;

-- Whether a topic without a log has nothing else for which it must be remembered.
CREATE FUNCTION {s}.is_unknown(t {s}.topic) RETURNS boolean LANGUAGE sql VOLATILE AS $$
    SELECT CASE WHEN t.name LIKE chr(1) || '%'
        THEN NOT EXISTS (SELECT FROM {s}.channel WHERE id = substr(t.name, 2))
        ELSE NOT EXISTS (SELECT FROM {s}.member WHERE topic = t.id)
            AND NOT EXISTS (SELECT FROM {s}.interest WHERE topic = t.id)
            AND NOT EXISTS (SELECT FROM {s}.key WHERE topic = t.id)
            AND NOT EXISTS (SELECT FROM {s}.outbox WHERE topic = t.name)
        END
$$;
