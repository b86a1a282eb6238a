CREATE FUNCTION {s}.new_epoch() RETURNS bigint LANGUAGE sql VOLATILE AS $$
    SELECT (random() * 9007199254740989)::bigint + 1
$$;

CREATE FUNCTION {s}.new_mark() RETURNS bigint LANGUAGE sql VOLATILE AS $$
    SELECT (random() * 4294967295)::bigint
$$;

CREATE FUNCTION {s}.micros(at timestamptz) RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT (extract(epoch FROM at) * 1000000)::bigint
$$;

-- A hundred years at most, as in Rust: no duration may lead out of the range of times. (least would pass over null.)
CREATE FUNCTION {s}.millis(duration bigint) RETURNS interval LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN duration > 3153600000000 THEN 3153600000000 ELSE duration END * interval '1 millisecond'
$$;

-- The topic, made if need be, locked against other publishers. If not alone, it is only kept from being forgotten. To
-- lock several topics, lock them in the order of names, and channels before topics.
CREATE FUNCTION {s}.lock_topic(wanted text, alone boolean DEFAULT true) RETURNS {s}.topic LANGUAGE plpgsql AS $$
DECLARE
    t {s}.topic;
BEGIN
    LOOP
        IF alone THEN
            SELECT * INTO t FROM {s}.topic WHERE name = wanted FOR NO KEY UPDATE;
        ELSE
            SELECT * INTO t FROM {s}.topic WHERE name = wanted FOR KEY SHARE;
        END IF;
        IF FOUND THEN RETURN t; END IF;
        INSERT INTO {s}.topic (name, epoch) VALUES (wanted, {s}.new_epoch())
            ON CONFLICT (name) DO NOTHING RETURNING * INTO t;
        IF FOUND THEN RETURN t; END IF;
    END LOOP;
END
$$;

-- Gives an event its offset in a locked topic. An event that is not kept (a_count is null) ends the log: a replay must
-- not pass over it. The caller saves the topic.
CREATE FUNCTION {s}.append(
    t {s}.topic, a_kind smallint, a_format smallint, a_payload bytea, a_publisher text, a_turn bigint, a_exclude text,
    a_count bigint, a_age bigint, heard boolean
) RETURNS {s}.topic LANGUAGE plpgsql AS $$
DECLARE
    now_at timestamptz := clock_timestamp();
    last bigint := t.head;
    last_mark bigint := t.head_mark;
BEGIN
    t.head := t.head + 1;
    t.head_mark := {s}.new_mark();
    IF a_count IS NULL THEN
        IF t.before IS NOT NULL THEN
            DELETE FROM {s}.log WHERE topic = t.id AND number > t.before;
            t.before := NULL;
            t.before_mark := NULL;
        END IF;
    ELSE
        IF t.before IS NULL THEN
            t.before := last;
            t.before_mark := last_mark;
        END IF;
        t.keep_count := a_count;
        t.keep_age := a_age;
        INSERT INTO {s}.log (topic, number, mark, at, kind, format, payload, publisher, turn, exclude)
            VALUES (t.id, t.head, t.head_mark, now_at, a_kind, a_format, a_payload, a_publisher, a_turn, a_exclude);
    END IF;
    IF heard THEN
        INSERT INTO {s}.feed (slot, seq, at, topic, epoch, number, mark, kind, format, payload, publisher, turn, exclude)
            VALUES ((SELECT n.slot FROM {s}.turn n WHERE n.one), nextval('{s}.feed_seq'), now_at, t.id, t.epoch,
                    t.head, t.head_mark, a_kind, a_format, a_payload, a_publisher, a_turn, a_exclude);
    END IF;
    RETURN t;
END
$$;

-- Trims the log to its count, and writes the topic.
CREATE FUNCTION {s}.save_topic(t {s}.topic) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    through bigint := t.head - t.keep_count;
BEGIN
    IF t.before IS NOT NULL AND t.before < through THEN
        t.before_mark := (SELECT l.mark FROM {s}.log l WHERE l.topic = t.id AND l.number = through);
        DELETE FROM {s}.log l WHERE l.topic = t.id AND l.number > t.before AND l.number <= through;
        t.before := CASE WHEN through < t.head THEN through END;
    END IF;
    UPDATE {s}.topic SET
        head = t.head, head_mark = t.head_mark, before = t.before, before_mark = t.before_mark,
        keep_count = t.keep_count, keep_age = t.keep_age,
        relay_epoch = t.relay_epoch, relay_number = t.relay_number, relay_mark = t.relay_mark,
        relay_token = t.relay_token, relay_until = t.relay_until
        WHERE id = t.id;
END
$$;

-- The position that a key was published at, if it is remembered.
CREATE FUNCTION {s}.known_key(a_topic bigint, a_hash bytea) RETURNS SETOF {s}.key LANGUAGE sql VOLATILE AS $$
    SELECT * FROM {s}.key WHERE topic = a_topic AND hash = a_hash AND until > clock_timestamp()
$$;

-- As long as the retention, and at least five minutes.
CREATE FUNCTION {s}.remember_key(t {s}.topic, a_hash bytea, a_age bigint) RETURNS void LANGUAGE sql AS $$
    INSERT INTO {s}.key (topic, hash, epoch, number, mark, until)
        VALUES (t.id, a_hash, t.epoch, t.head, t.head_mark,
                clock_timestamp() + {s}.millis(greatest(coalesce(a_age, 0), 300000)))
        ON CONFLICT (topic, hash) DO UPDATE SET
            epoch = excluded.epoch, number = excluded.number, mark = excluded.mark, until = excluded.until
$$;

-- Publishes a slice. An event that is not kept writes nothing on an unknown topic.
CREATE FUNCTION {s}.publish_slice(
    topics text[], kinds smallint[], formats smallint[], payloads bytea[], publishers text[], turns bigint[],
    excludes text[], counts bigint[], ages bigint[], keys bytea[], local bigint[]
) RETURNS TABLE (
    o_item bigint, o_epoch bigint, o_number bigint, o_mark bigint, o_indexed boolean, o_duplicate boolean, o_wake boolean
) LANGUAGE plpgsql AS $$
DECLARE
    i record;
    k {s}.key;
    t {s}.topic;
    last text;
    heard boolean;
    kept boolean := false;
BEGIN
    FOR i IN
        SELECT u.*, bool_or(u.keep_count IS NOT NULL OR u.key IS NOT NULL) OVER (PARTITION BY u.topic) AS lasting
        FROM unnest(topics, kinds, formats, payloads, publishers, turns, excludes, counts, ages, keys) WITH ORDINALITY
            u (topic, kind, format, payload, publisher, turn, exclude, keep_count, keep_age, key, item)
        ORDER BY u.topic COLLATE "C", u.item
    LOOP
        IF last IS DISTINCT FROM i.topic THEN
            IF t.id IS NOT NULL THEN PERFORM {s}.save_topic(t); END IF;
            last := i.topic;
            kept := kept OR i.lasting;
            IF i.lasting THEN
                t := {s}.lock_topic(i.topic);
            ELSE
                SELECT * INTO t FROM {s}.topic WHERE name = i.topic FOR NO KEY UPDATE;
            END IF;
            o_indexed := false;
            o_wake := false;
            IF t.id IS NOT NULL THEN
                heard := EXISTS (SELECT FROM {s}.interest n WHERE n.topic = t.id);
                o_wake := heard AND EXISTS (SELECT FROM {s}.interest n WHERE n.topic = t.id AND n.node <> ALL (local));
                o_indexed := EXISTS (SELECT FROM {s}.member m WHERE m.topic = t.id AND m.indexed);
                IF EXISTS (SELECT FROM {s}.outbox b WHERE b.topic = t.name) THEN
                    -- The events of the outbox were committed before, so they get their offsets first.
                    t := {s}.drain(t, NULL, heard);
                    kept := true;
                END IF;
            END IF;
        END IF;
        o_item := i.item;
        o_duplicate := false;
        IF t.id IS NULL THEN
            o_epoch := {s}.new_epoch();
            o_number := 1;
            o_mark := {s}.new_mark();
            RETURN NEXT;
            CONTINUE;
        END IF;
        IF i.key IS NOT NULL THEN
            i.key := sha256(i.key);
            SELECT * INTO k FROM {s}.known_key(t.id, i.key);
            IF FOUND THEN
                o_epoch := k.epoch;
                o_number := k.number;
                o_mark := k.mark;
                o_duplicate := true;
                RETURN NEXT;
                CONTINUE;
            END IF;
        END IF;
        t := {s}.append(t, i.kind, i.format, i.payload, i.publisher, i.turn, i.exclude, i.keep_count, i.keep_age, heard);
        IF i.key IS NOT NULL THEN PERFORM {s}.remember_key(t, i.key, i.keep_age); END IF;
        o_epoch := t.epoch;
        o_number := t.head;
        o_mark := t.head_mark;
        RETURN NEXT;
    END LOOP;
    IF t.id IS NOT NULL THEN PERFORM {s}.save_topic(t); END IF;
    -- An event that is at most once need not wait for the disk.
    IF NOT kept THEN PERFORM set_config('synchronous_commit', 'off', true); END IF;
END
$$;

-- Takes the right to relay a topic; no row while another process has it, or without indexed members. Without nodes,
-- nothing else may have given the events in the outbox their offsets.
CREATE FUNCTION {s}.hold_relay(wanted text, a_ttl bigint) RETURNS SETOF {s}.topic LANGUAGE plpgsql AS $$
DECLARE
    t {s}.topic;
BEGIN
    SELECT * INTO t FROM {s}.topic WHERE name = wanted FOR NO KEY UPDATE;
    IF t.relay_epoch IS NULL OR (t.relay_token IS NOT NULL AND t.relay_until > clock_timestamp()) THEN RETURN; END IF;
    t := {s}.drain(t, NULL, EXISTS (SELECT FROM {s}.interest n WHERE n.topic = t.id));
    t.relay_token := nextval('{s}.holder');
    t.relay_until := clock_timestamp() + {s}.millis(a_ttl);
    PERFORM {s}.save_topic(t);
    RETURN NEXT t;
END
$$;

-- Pages of listings, by seat. As joins with the topic, or by a bitmap, they would be sorted, and each page would read
-- all later rows.
CREATE FUNCTION {s}.page_of_members(a_topic text, after bigint, most bigint) RETURNS TABLE (
    seat bigint, id text, generation bigint, at_gateway boolean, place text, connection text,
    epoch bigint, number bigint, mark bigint
) LANGUAGE sql STABLE SET enable_bitmapscan = off AS $$
    SELECT m.seat, c.id, c.generation, c.at_gateway, c.place, c.connection, m.epoch, m.number, m.mark
    FROM {s}.member m JOIN {s}.channel c ON c.id = m.channel
    WHERE m.topic = (SELECT t.id FROM {s}.topic t WHERE t.name = a_topic) AND m.indexed AND m.seat > after AND c.phase < 3
    ORDER BY m.seat LIMIT most
$$;

CREATE FUNCTION {s}.page_of_presence(a_topic text, after bigint, most bigint) RETURNS TABLE (
    seat bigint, channel text, user_id text, data bytea, since bigint
) LANGUAGE sql STABLE SET enable_bitmapscan = off AS $$
    SELECT m.seat, m.channel, m.user_id, m.data, {s}.micros(m.since)
    FROM {s}.member m JOIN {s}.channel c ON c.id = m.channel
    WHERE m.topic = (SELECT t.id FROM {s}.topic t WHERE t.name = a_topic) AND m.present AND m.seat > after AND c.phase < 3
    ORDER BY m.seat LIMIT most
$$;

-- Where a log begins, without its too old events; no row if nothing is kept. A bitmap, which the planner takes for a
-- log that it thinks is short, would read all of it for the first row.
CREATE FUNCTION {s}.first_kept(t {s}.topic) RETURNS bigint LANGUAGE sql STABLE SET enable_bitmapscan = off AS $$
    SELECT l.number FROM {s}.log l
    WHERE l.topic = t.id AND l.number > t.before AND l.at > clock_timestamp() - {s}.millis(t.keep_age)
    ORDER BY l.number LIMIT 1
$$;

-- The events after a position. The first row is the head, and whether there is a gap before it.
CREATE FUNCTION {s}.replay_topic(t {s}.topic, after_epoch bigint, after_number bigint, after_mark bigint, most bigint)
RETURNS TABLE (
    o_gap boolean, o_epoch bigint, o_number bigint, o_mark bigint, o_kind smallint, o_format smallint, o_payload bytea,
    o_publisher text, o_turn bigint, o_exclude text
) LANGUAGE plpgsql STABLE SET enable_bitmapscan = off AS $$
DECLARE
    first bigint;
    known bigint;
BEGIN
    o_epoch := t.epoch;
    o_number := t.head;
    o_mark := t.head_mark;
    o_gap := true;
    IF after_epoch = t.epoch AND after_number <= t.head THEN
        first := {s}.first_kept(t);
        IF first IS NULL THEN
            o_gap := NOT (after_number = t.head AND after_mark = t.head_mark);
        ELSIF after_number >= first - 1 THEN
            IF after_number = t.before THEN
                known := t.before_mark;
            ELSE
                known := (SELECT l.mark FROM {s}.log l WHERE l.topic = t.id AND l.number = after_number);
            END IF;
            o_gap := known IS DISTINCT FROM after_mark;
        END IF;
    END IF;
    RETURN NEXT;
    IF o_gap OR first IS NULL THEN RETURN; END IF;
    RETURN QUERY
        SELECT false, t.epoch, l.number, l.mark, l.kind, l.format, l.payload, l.publisher, l.turn, l.exclude
        FROM {s}.log l WHERE l.topic = t.id AND l.number > after_number ORDER BY l.number LIMIT most;
END
$$;

CREATE FUNCTION {s}.replay(wanted text, after_epoch bigint, after_number bigint, after_mark bigint, most bigint)
RETURNS TABLE (
    o_gap boolean, o_epoch bigint, o_number bigint, o_mark bigint, o_kind smallint, o_format smallint, o_payload bytea,
    o_publisher text, o_turn bigint, o_exclude text
) LANGUAGE plpgsql STABLE AS $$
DECLARE
    t {s}.topic;
BEGIN
    SELECT * INTO t FROM {s}.topic WHERE name = wanted;
    IF NOT FOUND THEN
        o_gap := true;
        o_epoch := {s}.new_epoch();
        o_number := 0;
        o_mark := 0;
        RETURN NEXT;
        RETURN;
    END IF;
    RETURN QUERY SELECT * FROM {s}.replay_topic(t, after_epoch, after_number, after_mark, most);
END
$$;

CREATE FUNCTION {s}.history(wanted text, most bigint)
RETURNS TABLE (
    o_epoch bigint, o_number bigint, o_mark bigint, o_kind smallint, o_format smallint, o_payload bytea,
    o_publisher text, o_turn bigint, o_exclude text
) LANGUAGE plpgsql STABLE AS $$
DECLARE
    t {s}.topic;
    first bigint;
BEGIN
    SELECT * INTO t FROM {s}.topic WHERE name = wanted;
    first := {s}.first_kept(t);
    RETURN QUERY
        SELECT t.epoch, l.number, l.mark, l.kind, l.format, l.payload, l.publisher, l.turn, l.exclude
        FROM {s}.log l
        WHERE first IS NOT NULL AND l.topic = t.id AND l.number >= greatest(first, t.head - most + 1)
        ORDER BY l.number;
END
$$;
