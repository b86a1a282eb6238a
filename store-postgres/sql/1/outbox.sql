-- Gives offsets to the visible events that users' transactions published on a locked topic. An event that fails is
-- lost, and a hole in the offsets: the others neither fail with it nor wait for it.
CREATE FUNCTION {s}.drain(t {s}.topic, most bigint, heard boolean) RETURNS {s}.topic LANGUAGE plpgsql AS $$
DECLARE
    ids CONSTANT bigint[] := ARRAY(SELECT id FROM {s}.outbox WHERE topic = t.name ORDER BY id LIMIT most);
BEGIN
    RETURN {s}.drain_all(t, ids, heard);
EXCEPTION WHEN data_exception OR integrity_constraint_violation OR program_limit_exceeded THEN
    RETURN {s}.drain_each(t, ids, heard);
END
$$;

CREATE FUNCTION {s}.drain_each(t {s}.topic, ids bigint[], heard boolean) RETURNS {s}.topic LANGUAGE plpgsql AS $$
DECLARE
    one bigint;
    lost bigint := 0;
    reason text;
BEGIN
    FOREACH one IN ARRAY ids LOOP
        BEGIN
            t := {s}.drain_all(t, ARRAY[one], heard);
        EXCEPTION WHEN data_exception OR integrity_constraint_violation OR program_limit_exceeded THEN
            DELETE FROM {s}.outbox WHERE topic = t.name AND id = one;
            t := {s}.lose(t, heard);
            lost := lost + 1;
            reason := SQLERRM;
        END;
    END LOOP;
    IF lost > 0 THEN
        RAISE WARNING '% events of topic % could not be given a place, and are lost: %', lost, t.name, reason;
    END IF;
    RETURN t;
END
$$;

-- Gives an offset to an event that is lost. Nodes that hear the topic cannot read its kind, and report a gap. A log
-- goes on.
CREATE FUNCTION {s}.lose(t {s}.topic, heard boolean) RETURNS {s}.topic LANGUAGE sql AS $$
    SELECT {s}.append(t, -1::smallint, 2::smallint, ''::bytea, NULL, NULL, NULL,
        CASE WHEN t.before IS NOT NULL THEN t.keep_count END, CASE WHEN t.before IS NOT NULL THEN t.keep_age END, heard)
$$;

CREATE FUNCTION {s}.drain_all(t {s}.topic, ids bigint[], heard boolean) RETURNS {s}.topic LANGUAGE plpgsql AS $$
DECLARE
    o {s}.outbox;
    a_count bigint;
    a_age bigint;
BEGIN
    FOR o IN
        WITH taken AS (
            DELETE FROM {s}.outbox WHERE topic = t.name AND id = ANY (ids) RETURNING *
        )
        SELECT * FROM taken ORDER BY id
    LOOP
        CONTINUE WHEN o.key IS NOT NULL AND EXISTS (SELECT FROM {s}.known_key(t.id, o.key));
        IF o.keep = 0 AND t.before IS NOT NULL THEN
            a_count := t.keep_count;
            a_age := t.keep_age;
        ELSE
            a_count := o.keep_count;
            a_age := o.keep_age;
        END IF;
        t := {s}.append(t, 0::smallint, o.format, o.payload, NULL, NULL, NULL, a_count, a_age, heard);
        IF o.key IS NOT NULL THEN PERFORM {s}.remember_key(t, o.key, a_age); END IF;
    END LOOP;
    RETURN t;
END
$$;

-- The sequencer: gives offsets to the events in the outbox, except those of topics that are locked or whose own row
-- fails. Answers whether nodes must be woken, whether an event got an offset, whether events may be left that could get
-- one, and the retained topics with events for indexed members.
CREATE FUNCTION {s}.sequence_outbox(
    local bigint[], OUT o_wake boolean, OUT o_done boolean, OUT o_more boolean, OUT o_relay text[], OUT o_broken text
) LANGUAGE plpgsql AS $$
DECLARE
    wanted text;
    t {s}.topic;
    before bigint;
    heard boolean;
    most CONSTANT bigint := 500;
    topics bigint := 0;
    broken text;
    reason text;
    patience CONSTANT text := current_setting('lock_timeout');
BEGIN
    o_wake := false;
    o_done := false;
    o_more := false;
    o_relay := '{}';
    FOR wanted IN
        WITH RECURSIVE waiting (name) AS (
            (SELECT topic FROM {s}.outbox ORDER BY topic LIMIT 1)
            UNION ALL
            SELECT (SELECT b.topic FROM {s}.outbox b WHERE b.topic > waiting.name ORDER BY b.topic LIMIT 1)
            FROM waiting WHERE waiting.name IS NOT NULL
        )
        SELECT name FROM waiting WHERE name IS NOT NULL
    LOOP
        IF NOT EXISTS (SELECT FROM {s}.topic p WHERE p.name = wanted) THEN
            BEGIN
                -- A session that makes the topic at the same time may wait for the lock of another topic.
                PERFORM set_config('lock_timeout', '20ms', true);
                INSERT INTO {s}.topic (name, epoch) VALUES (wanted, {s}.new_epoch()) ON CONFLICT (name) DO NOTHING;
                PERFORM set_config('lock_timeout', patience, true);
            EXCEPTION WHEN lock_not_available THEN
                CONTINUE;
            END;
        END IF;
        SELECT * INTO t FROM {s}.topic WHERE name = wanted FOR NO KEY UPDATE SKIP LOCKED;
        CONTINUE WHEN NOT FOUND;
        before := t.head;
        heard := EXISTS (SELECT FROM {s}.interest n WHERE n.topic = t.id);
        BEGIN
            t := {s}.drain(t, most, heard);
            PERFORM {s}.save_topic(t);
        EXCEPTION WHEN data_exception OR integrity_constraint_violation OR program_limit_exceeded THEN
            broken := wanted;
            reason := SQLERRM;
            CONTINUE;
        END;
        topics := topics + 1;
        IF t.head > before THEN
            o_done := true;
            o_wake := o_wake OR EXISTS (SELECT FROM {s}.interest n WHERE n.topic = t.id AND n.node <> ALL (local));
            IF t.before IS NOT NULL AND t.relay_epoch IS NOT NULL THEN o_relay := o_relay || wanted; END IF;
        END IF;
        o_more := o_more OR topics = 100 OR EXISTS (SELECT FROM {s}.outbox b WHERE b.topic = wanted);
        EXIT WHEN topics = 100;
    END LOOP;
    o_broken := broken || ': ' || reason;
END
$$;
