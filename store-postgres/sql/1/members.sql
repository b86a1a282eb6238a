CREATE FUNCTION {s}.presence_payload(a_channel text, a_user text, a_since timestamptz, a_data bytea)
RETURNS bytea LANGUAGE sql STABLE AS $$
    SELECT convert_to(
        '{"channel":' || to_json(a_channel)
        || CASE WHEN a_user IS NULL THEN '' ELSE ',"user":' || to_json(a_user) END
        || ',"since":' || floor(extract(epoch FROM a_since) * 1000)
        || CASE WHEN a_data IS NULL THEN '' ELSE ',"data":' END, 'UTF8')
        || coalesce(a_data, '') || convert_to('}', 'UTF8')
$$;

-- Publishes a join (1) or a leave (2), kept like the last publication was.
CREATE FUNCTION {s}.tell_presence(t {s}.topic, m {s}.member, a_kind smallint) RETURNS {s}.topic LANGUAGE plpgsql AS $$
BEGIN
    RETURN {s}.append(
        t, a_kind, 0::smallint,
        {s}.presence_payload(m.channel, m.user_id, m.since, CASE WHEN m.shown THEN m.data END),
        NULL, NULL, NULL,
        CASE WHEN t.before IS NOT NULL THEN t.keep_count END, CASE WHEN t.before IS NOT NULL THEN t.keep_age END,
        EXISTS (SELECT FROM {s}.interest n WHERE n.topic = t.id)
    );
END
$$;

-- With the last indexed member the relay's cursor goes.
CREATE FUNCTION {s}.end_relay(t {s}.topic) RETURNS {s}.topic LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM {s}.member m WHERE m.topic = t.id AND m.indexed) THEN
        t.relay_epoch := NULL;
        t.relay_token := NULL;
    END IF;
    RETURN t;
END
$$;

-- Cleans up behind an indexed or present member whose row has gone.
CREATE FUNCTION {s}.left(t {s}.topic, m {s}.member) RETURNS {s}.topic LANGUAGE plpgsql AS $$
BEGIN
    IF m.present THEN t := {s}.tell_presence(t, m, 2::smallint); END IF;
    IF m.indexed THEN t := {s}.end_relay(t); END IF;
    RETURN t;
END
$$;

CREATE FUNCTION {s}.heard_elsewhere(a_topic bigint, local bigint[]) RETURNS boolean LANGUAGE sql VOLATILE AS $$
    SELECT EXISTS (SELECT FROM {s}.interest n WHERE n.topic = a_topic AND n.node <> ALL (local))
$$;

-- answer: 0 joined, 1 was a member already, 2 dead. A topic is locked only where events or the index change.
CREATE FUNCTION {s}.subscribe_slice(
    channels text[], generations bigint[], topics text[], indexeds boolean[], presents boolean[], users text[],
    datas bytea[], showns boolean[], local bigint[]
) RETURNS TABLE (o_item bigint, o_answer smallint, o_epoch bigint, o_number bigint, o_mark bigint, o_wake boolean)
LANGUAGE plpgsql AS $$
DECLARE
    i record;
    t {s}.topic;
    m {s}.member;
    is_locked boolean;
    was_present boolean;
    was_indexed boolean;
BEGIN
    PERFORM FROM {s}.channel WHERE id = ANY (channels) ORDER BY id FOR NO KEY UPDATE;
    o_wake := false;
    FOR i IN
        SELECT u.*, bool_or(u.indexed OR u.present) OVER (PARTITION BY u.topic) AS changing
        FROM unnest(channels, generations, topics, indexeds, presents, users, datas, showns) WITH ORDINALITY
            u (channel, generation, topic, indexed, present, user_id, data, shown, item)
        ORDER BY u.topic COLLATE "C", u.item
    LOOP
        IF t.name IS DISTINCT FROM i.topic THEN
            IF is_locked THEN PERFORM {s}.save_topic(t); END IF;
            is_locked := i.changing;
            t := {s}.lock_topic(i.topic, is_locked);
        END IF;
        o_item := i.item;
        o_answer := 2;
        IF EXISTS (
            SELECT FROM {s}.channel c WHERE c.id = i.channel AND c.generation = i.generation AND c.phase < 3
        ) THEN
            SELECT * INTO m FROM {s}.member x WHERE x.channel = i.channel AND x.topic = t.id;
            o_answer := CASE WHEN FOUND THEN 1 ELSE 0 END;
            was_present := coalesce(m.present, false);
            was_indexed := coalesce(m.indexed, false);
            IF (was_present OR was_indexed) AND NOT is_locked THEN
                is_locked := true;
                t := {s}.lock_topic(i.topic);
            END IF;
            IF o_answer = 0 THEN
                INSERT INTO {s}.member (channel, topic, indexed, present)
                    VALUES (i.channel, t.id, false, false) RETURNING * INTO m;
            END IF;
            IF was_present AND NOT i.present THEN
                t := {s}.tell_presence(t, m, 2::smallint);
                o_wake := o_wake OR {s}.heard_elsewhere(t.id, local);
            END IF;
            m.user_id := i.user_id;
            m.data := i.data;
            m.shown := i.shown;
            IF i.present AND NOT was_present THEN
                m.since := clock_timestamp();
                t := {s}.tell_presence(t, m, 1::smallint);
                o_wake := o_wake OR {s}.heard_elsewhere(t.id, local);
            END IF;
            IF i.indexed AND NOT was_indexed THEN
                m.epoch := t.epoch;
                m.number := t.head;
                m.mark := t.head_mark;
                IF t.relay_epoch IS NULL THEN
                    t.relay_epoch := t.epoch;
                    t.relay_number := t.head;
                    t.relay_mark := t.head_mark;
                END IF;
            END IF;
            IF was_present OR was_indexed OR i.present OR i.indexed THEN
                UPDATE {s}.member x SET
                    indexed = i.indexed, epoch = m.epoch, number = m.number, mark = m.mark,
                    present = i.present, user_id = m.user_id, data = m.data, shown = m.shown, since = m.since
                    WHERE x.channel = i.channel AND x.topic = t.id;
            END IF;
            IF was_indexed AND NOT i.indexed THEN t := {s}.end_relay(t); END IF;
        END IF;
        o_epoch := t.epoch;
        o_number := t.head;
        o_mark := t.head_mark;
        RETURN NEXT;
    END LOOP;
    IF is_locked THEN PERFORM {s}.save_topic(t); END IF;
END
$$;

-- Takes a member out of its topic; answers whether other nodes must be woken.
CREATE FUNCTION {s}.end_membership(m {s}.member, local bigint[]) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    t {s}.topic;
BEGIN
    IF m.present OR m.indexed THEN SELECT * INTO t FROM {s}.topic WHERE id = m.topic FOR NO KEY UPDATE; END IF;
    DELETE FROM {s}.member x WHERE x.channel = m.channel AND x.topic = m.topic;
    IF NOT m.present AND NOT m.indexed THEN RETURN false; END IF;
    t := {s}.left(t, m);
    PERFORM {s}.save_topic(t);
    RETURN m.present AND {s}.heard_elsewhere(t.id, local);
END
$$;

CREATE FUNCTION {s}.unsubscribe_slice(channels text[], generations bigint[], topics text[], local bigint[])
RETURNS TABLE (o_item bigint, o_left boolean, o_wake boolean) LANGUAGE plpgsql AS $$
DECLARE
    i record;
    m {s}.member;
BEGIN
    PERFORM FROM {s}.channel WHERE id = ANY (channels) ORDER BY id FOR NO KEY UPDATE;
    o_wake := false;
    FOR i IN
        SELECT u.* FROM unnest(channels, generations, topics) WITH ORDINALITY u (channel, generation, topic, item)
        ORDER BY u.topic COLLATE "C", u.item
    LOOP
        o_item := i.item;
        o_left := false;
        SELECT x.* INTO m FROM {s}.member x
            JOIN {s}.topic p ON p.id = x.topic
            JOIN {s}.channel c ON c.id = x.channel
            WHERE p.name = i.topic AND x.channel = i.channel AND c.generation = i.generation AND c.phase < 3;
        IF FOUND THEN
            o_left := true;
            o_wake := {s}.end_membership(m, local) OR o_wake;
        END IF;
        RETURN NEXT;
    END LOOP;
END
$$;

-- Sweeps the rows of claimed channels, the record last.
CREATE FUNCTION {s}.remove_channels(ids text[], generations bigint[], local bigint[])
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    held text[];
    m {s}.member;
    inbox bigint;
    wake boolean := false;
BEGIN
    held := ARRAY(
        SELECT c.id FROM {s}.channel c JOIN unnest(ids, generations) u (id, generation)
            ON c.id = u.id AND c.generation = u.generation
        WHERE c.phase = 3 ORDER BY c.id FOR UPDATE OF c
    );
    FOR m IN
        SELECT x.* FROM {s}.member x JOIN {s}.topic p ON p.id = x.topic WHERE x.channel = ANY (held)
        ORDER BY p.name, x.channel
    LOOP
        wake := {s}.end_membership(m, local) OR wake;
    END LOOP;
    FOR inbox IN
        DELETE FROM {s}.topic WHERE name = ANY (ARRAY(SELECT chr(1) || h FROM unnest(held) h)) RETURNING id
    LOOP
        DELETE FROM {s}.log WHERE topic = inbox;
    END LOOP;
    DELETE FROM {s}.channel WHERE id = ANY (held);
    RETURN wake;
END
$$;

-- The target of direct sends. status: 0 absent, 1 stored, 2 at the location. number is null where nothing is kept.
CREATE FUNCTION {s}.deliver_slice(
    channels text[], kinds smallint[], formats smallint[], payloads bytea[], publishers text[], turns bigint[],
    excludes text[], a_count bigint, a_age bigint
) RETURNS TABLE (
    o_item bigint, o_status smallint, o_gateway boolean, o_place text, o_connection text,
    o_epoch bigint, o_number bigint, o_mark bigint
) LANGUAGE plpgsql AS $$
DECLARE
    i record;
    c {s}.channel;
    t {s}.topic;
    kept boolean := false;
BEGIN
    PERFORM FROM {s}.channel WHERE id = ANY (channels) AND (grace IS NOT NULL OR phase = 2) ORDER BY id FOR SHARE;
    FOR i IN
        SELECT u.* FROM unnest(channels, kinds, formats, payloads, publishers, turns, excludes) WITH ORDINALITY
            u (channel, kind, format, payload, publisher, turn, exclude, item)
        ORDER BY u.channel COLLATE "C", u.item
    LOOP
        o_item := i.item;
        o_status := 0;
        o_number := NULL;
        SELECT * INTO c FROM {s}.channel x WHERE x.id = i.channel AND x.phase < 3;
        IF FOUND THEN
            o_status := CASE WHEN c.phase = 2 THEN 1 ELSE 2 END;
            o_gateway := c.at_gateway;
            o_place := c.place;
            o_connection := c.connection;
            IF c.grace IS NOT NULL OR c.phase = 2 THEN
                kept := true;
                t := {s}.lock_topic(chr(1) || i.channel);
                t := {s}.append(t, i.kind, i.format, i.payload, i.publisher, i.turn, i.exclude, a_count, a_age, false);
                PERFORM {s}.save_topic(t);
                o_epoch := t.epoch;
                o_number := t.head;
                o_mark := t.head_mark;
            END IF;
        END IF;
        RETURN NEXT;
    END LOOP;
END
$$;

-- As replay, of a channel's inbox. Number 0 is its beginning, whatever the epoch.
CREATE FUNCTION {s}.replay_inbox(
    a_channel text, after_epoch bigint, after_number bigint, after_mark bigint, most bigint
) RETURNS TABLE (
    o_gap boolean, o_epoch bigint, o_number bigint, o_mark bigint, o_kind smallint, o_format smallint, o_payload bytea,
    o_publisher text, o_turn bigint, o_exclude text
) LANGUAGE plpgsql STABLE AS $$
DECLARE
    t {s}.topic;
    lives boolean := EXISTS (SELECT FROM {s}.channel WHERE id = a_channel AND phase < 3);
BEGIN
    SELECT * INTO t FROM {s}.topic WHERE name = chr(1) || a_channel;
    IF lives AND FOUND THEN
        IF after_number = 0 THEN
            after_epoch := t.epoch;
            after_mark := CASE WHEN t.before = 0 THEN t.before_mark ELSE 0 END;
        END IF;
        RETURN QUERY SELECT * FROM {s}.replay_topic(t, after_epoch, after_number, after_mark, most);
        RETURN;
    END IF;
    o_gap := NOT (lives AND after_number = 0);
    o_epoch := after_epoch;
    o_number := 0;
    o_mark := 0;
    RETURN NEXT;
END
$$;
