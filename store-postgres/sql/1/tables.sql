-- Names are compared byte by byte, whatever the database's locale. Times are the database's own. Durations are
-- milliseconds. An event's place is (epoch, number, mark): a position's epoch, offset and check.

-- Holders of locks, relays and places on the bus are told apart by it.
CREATE SEQUENCE {s}.holder;
-- Begins at the clock: no number is given twice, also if the schema is lost and made anew.
SELECT setval('{s}.holder', (extract(epoch FROM clock_timestamp()) * 1000000)::bigint);

CREATE TABLE {s}.node (
    id text COLLATE "C" PRIMARY KEY,
    until timestamptz NOT NULL
);
CREATE INDEX node_until ON {s}.node (until);

-- phase: 0 opening, 1 open, 2 detached, 3 dead. due: the end of the grace (detached), of the claim (dead), or of the
-- time at a gateway (the others). claimant: the caller that may ask again for its claim of a dead channel.
CREATE TABLE {s}.channel (
    id text COLLATE "C" PRIMARY KEY,
    endpoint text NOT NULL,
    generation bigint NOT NULL,
    phase smallint NOT NULL,
    at_gateway boolean NOT NULL,
    place text COLLATE "C" NOT NULL,
    connection text COLLATE "C" NOT NULL,
    opening bytea NOT NULL,
    state_version bigint NOT NULL,
    state bytea,
    session_version bigint NOT NULL,
    user_id text,
    user_value bytea,
    grace bigint,
    opened_at timestamptz NOT NULL,
    due timestamptz,
    claimant text COLLATE "C",
    token bytea,
    previous_token bytea,
    lock_token bigint,
    lock_until timestamptz
) WITH (fillfactor = 70);
CREATE UNIQUE INDEX channel_location ON {s}.channel (place, connection, at_gateway);
CREATE INDEX channel_due ON {s}.channel (due) WHERE due IS NOT NULL;
CREATE INDEX channel_connected ON {s}.channel (place, id) WHERE NOT at_gateway AND phase < 2;

-- The log of a topic begins after (before, before_mark); there is none while before is null. A channel's inbox is the
-- topic of the name chr(1) || channel, which no other topic can have.
CREATE TABLE {s}.topic (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text COLLATE "C" NOT NULL UNIQUE,
    epoch bigint NOT NULL,
    head bigint NOT NULL DEFAULT 0,
    head_mark bigint NOT NULL DEFAULT 0,
    before bigint,
    before_mark bigint,
    keep_count bigint CHECK (keep_count BETWEEN 0 AND 4294967295),
    keep_age bigint CHECK (keep_age BETWEEN 0 AND 3153600000000),
    relay_epoch bigint,
    relay_number bigint,
    relay_mark bigint,
    relay_token bigint,
    relay_until timestamptz
) WITH (fillfactor = 50);
SELECT setval(pg_get_serial_sequence('{s}.topic', 'id'), (extract(epoch FROM clock_timestamp()) * 1000000)::bigint);

-- kind: 0 message, 1 join, 2 leave. format: 0 JSON, 1 text, 2 binary.
CREATE TABLE {s}.log (
    topic bigint NOT NULL,
    number bigint NOT NULL,
    mark bigint NOT NULL,
    at timestamptz NOT NULL,
    kind smallint NOT NULL,
    format smallint NOT NULL,
    payload bytea NOT NULL,
    publisher text,
    turn bigint,
    exclude text,
    PRIMARY KEY (topic, number)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000, autovacuum_vacuum_cost_delay = 0);

-- Idempotency keys, as SHA-256.
CREATE TABLE {s}.key (
    topic bigint NOT NULL,
    hash bytea NOT NULL,
    epoch bigint NOT NULL,
    number bigint NOT NULL,
    mark bigint NOT NULL,
    until timestamptz NOT NULL,
    PRIMARY KEY (topic, hash)
);
CREATE INDEX key_until ON {s}.key (until);

-- seat: the order of joining, a listing's cursor. (epoch, number, mark): the head when the indexed member joined.
CREATE TABLE {s}.member (
    channel text COLLATE "C" NOT NULL,
    topic bigint NOT NULL,
    seat bigint GENERATED ALWAYS AS IDENTITY,
    indexed boolean NOT NULL,
    epoch bigint,
    number bigint,
    mark bigint,
    present boolean NOT NULL,
    user_id text,
    data bytea,
    shown boolean NOT NULL DEFAULT false,
    since timestamptz,
    PRIMARY KEY (channel, topic)
);
CREATE INDEX member_topic ON {s}.member (topic);
CREATE INDEX member_indexed ON {s}.member (topic, seat) WHERE indexed;
CREATE INDEX member_present ON {s}.member (topic, seat) WHERE present;

-- Events that users' transactions publish, until the sequencer gives them offsets. keep: 0 as the topic's log is kept,
-- 1 not, 2 as keep_count and keep_age say. Users' roles may write to this table, so its checks refuse events that no
-- node could read. convert_from refuses text that is no UTF-8, and zero bytes, which UTF-8 may have: they are replaced
-- before.
CREATE TABLE {s}.outbox (
    topic text COLLATE "C" NOT NULL,
    id bigint GENERATED ALWAYS AS IDENTITY,
    format smallint NOT NULL CHECK (format BETWEEN 0 AND 2),
    payload bytea NOT NULL CHECK (octet_length(payload) <= 1048576),
    keep smallint NOT NULL CHECK (keep BETWEEN 0 AND 2),
    keep_count bigint CHECK (keep_count BETWEEN 1 AND 4294967295),
    keep_age bigint CHECK (keep_age BETWEEN 0 AND 3153600000000),
    key bytea CHECK (octet_length(key) = 32),
    PRIMARY KEY (topic, id),
    CONSTRAINT outbox_topic_is_an_applications_own CHECK (
        octet_length(topic) BETWEEN 1 AND 255 AND left(topic, 1) <> '$' AND topic !~ E'[\\u0001-\\u001F\\u007F-\\u009F]'
    ),
    CONSTRAINT outbox_text_is_utf8 CHECK (
        format = 2 OR convert_from(
            CASE
                WHEN position('\x00'::bytea IN payload) = 0 THEN payload
                ELSE decode(replace(replace(encode(payload, 'escape'), E'\\\\', '/'), E'\\000', '/'), 'escape')
            END, 'UTF8'
        ) IS NOT NULL
    ),
    CONSTRAINT outbox_count_and_age_go_together CHECK (
        keep <> 2 OR (keep_count IS NOT NULL AND keep_age IS NOT NULL)
    )
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);

-- The bus. A crash of the server empties it: nodes notice, register anew and catch up from the logs.
CREATE UNLOGGED TABLE {s}.hearer (
    number bigint PRIMARY KEY DEFAULT nextval('{s}.holder'),
    id text COLLATE "C" NOT NULL UNIQUE,
    holder text COLLATE "C" NOT NULL,
    until timestamptz NOT NULL
);
CREATE INDEX hearer_until ON {s}.hearer (until);

-- A crash of the server or of a backend empties it, like every unlogged table. A node that finds another life than
-- before knows that acknowledged events may have been rolled back.
CREATE UNLOGGED TABLE {s}.life (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    id text NOT NULL DEFAULT gen_random_uuid()::text
);

-- asked: the number of the call that wrote the row. A call that reaches the database late undoes no later one.
CREATE UNLOGGED TABLE {s}.interest (
    topic bigint NOT NULL,
    node bigint NOT NULL,
    asked bigint NOT NULL,
    PRIMARY KEY (topic, node)
);
CREATE INDEX interest_node ON {s}.interest (node);

-- Events that nodes have yet to hear, of topics that some node hears. A ring of partitions, emptied by TRUNCATE:
-- nothing is deleted row by row, nothing is vacuumed. Only an INSERT may name the table as a whole: any other statement
-- would lock all partitions, and wait for the one that is emptied. xid: nodes read rows that became visible since their
-- last snapshot, so that a late commit is not skipped.
CREATE TABLE {s}.feed (
    slot smallint NOT NULL,
    seq bigint NOT NULL,
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    at timestamptz NOT NULL,
    topic bigint NOT NULL,
    epoch bigint NOT NULL,
    number bigint NOT NULL,
    mark bigint NOT NULL,
    kind smallint NOT NULL,
    format smallint NOT NULL,
    payload bytea NOT NULL,
    publisher text,
    turn bigint,
    exclude text
) PARTITION BY LIST (slot);
CREATE UNLOGGED TABLE {s}.feed_0 PARTITION OF {s}.feed FOR VALUES IN (0) WITH (autovacuum_enabled = off);
CREATE UNLOGGED TABLE {s}.feed_1 PARTITION OF {s}.feed FOR VALUES IN (1) WITH (autovacuum_enabled = off);
CREATE UNLOGGED TABLE {s}.feed_2 PARTITION OF {s}.feed FOR VALUES IN (2) WITH (autovacuum_enabled = off);
CREATE UNLOGGED TABLE {s}.feed_3 PARTITION OF {s}.feed FOR VALUES IN (3) WITH (autovacuum_enabled = off);
CREATE INDEX feed_xid ON {s}.feed (xid);
CREATE SEQUENCE {s}.feed_seq;
SELECT setval('{s}.feed_seq', (extract(epoch FROM clock_timestamp()) * 1000000)::bigint);

-- Commands to nodes, with a note beside the event of a direct send, until the node has taken them.
CREATE UNLOGGED TABLE {s}.mail (
    node bigint NOT NULL,
    seq bigint NOT NULL,
    at timestamptz NOT NULL,
    kind smallint NOT NULL,
    format smallint NOT NULL,
    payload bytea NOT NULL,
    publisher text,
    turn bigint,
    exclude text,
    note text NOT NULL,
    PRIMARY KEY (node, seq)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);

-- sealed: the snapshot at which the slot was no longer written to; every node has read its rows ten seconds later.
-- closed_at: since then no poll looks into the slot.
CREATE TABLE {s}.slot (
    slot smallint PRIMARY KEY,
    sealed_at timestamptz,
    sealed pg_snapshot,
    closed_at timestamptz
);
INSERT INTO {s}.slot (slot) VALUES (0), (1), (2), (3);

-- The slot that is written to. The session that holds its lock turns the ring.
CREATE TABLE {s}.turn (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    slot smallint NOT NULL,
    since timestamptz NOT NULL
);
INSERT INTO {s}.turn (slot, since) VALUES (0, now());

-- How far the sweep through the topics has come. The session that holds its lock sweeps.
CREATE TABLE {s}.sweep (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    after_topic bigint NOT NULL,
    pause_until timestamptz NOT NULL
);
INSERT INTO {s}.sweep (after_topic, pause_until) VALUES (0, now());
