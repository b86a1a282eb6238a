//! The text of every statement, for one schema. Nearly all of them call one of the schema's functions. A call is one
//! exchange and one transaction, so that no lock is ever held while a client works.

use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};

use crate::migrate::in_schema;

macro_rules! statements {
    ($($(#[$doc:meta])* $name:ident = $sql:expr;)*) => {
        #[derive(Debug)]
        pub(crate) struct Statements {
            $($(#[$doc])* pub(crate) $name: SqlStr,)*
            polls: Vec<SqlStr>,
        }

        impl Statements {
            pub(crate) fn new(schema: &str) -> Self {
                let text = |sql: &str| AssertSqlSafe(in_schema(sql, schema)).into_sql_str();
                Self { $($name: text($sql),)* polls: (0..1 << SLOTS).map(|slots| text(&poll(slots))).collect() }
            }
        }
    };
}

/// The number of the feed's slots.
const SLOTS: u32 = 4;

/// Reads the rows that have become visible since a snapshot in some slots of the feed (a bit each) for one node. The
/// first row holds the present snapshot and its open slots. The query locks no other slot, so that no task waits while
/// one is emptied. It asks for interest as a value: `EXISTS` would read and hash the whole table, however few rows the
/// feed has. A node that has lost its place reads nothing: after a restore the database may have given its number to
/// another node.
fn poll(slots: u32) -> String {
    let head = "SELECT NULL::bigint AS seq, pg_current_snapshot()::text AS snapshot, {s}.micros(clock_timestamp()) AS at, \
                    (SELECT coalesce(bit_or(1 << slot), 0) FROM {s}.slot WHERE slot >= 0 AND closed_at IS NULL) AS open, \
                    {s}.micros(pg_postmaster_start_time()) AS born, \
                    EXISTS (SELECT FROM {s}.hearer WHERE number = $1 AND id = $3) AS is_on, \
                    (SELECT id FROM {s}.outbox ORDER BY topic, id LIMIT 1) IS NOT NULL AS waiting, \
                    NULL::bigint AS topic, NULL::bigint AS epoch, NULL::bigint AS number, NULL::bigint AS mark, \
                    NULL::smallint AS kind, NULL::smallint AS format, NULL::bytea AS payload, NULL::text AS publisher, \
                    NULL::bigint AS turn, NULL::text AS exclude, NULL::text AS note";
    let mail = "SELECT m.seq, NULL, {s}.micros(m.at), NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, m.kind, m.format, \
                    m.payload, m.publisher, m.turn, m.exclude, m.note \
                FROM {s}.mail m WHERE m.node = $1 AND (SELECT true FROM {s}.hearer WHERE number = $1 AND id = $3)";
    let feeds = (0..SLOTS).filter(|slot| slots & 1 << slot != 0).map(|slot| format!("SELECT * FROM {{s}}.feed_{slot}"));
    let feeds = feeds.collect::<Vec<_>>().join(" UNION ALL ");
    let events = match &*feeds {
        "" => String::new(),
        feeds => format!(
            " UNION ALL \
             SELECT f.seq, NULL, {{s}}.micros(f.at), NULL, NULL, NULL, NULL, f.topic, f.epoch, f.number, f.mark, f.kind, \
                 f.format, f.payload, f.publisher, f.turn, f.exclude, NULL \
             FROM ({feeds}) f \
             WHERE (f.xid >= pg_snapshot_xmax($2::text::pg_snapshot) \
                    OR f.xid = ANY (ARRAY(SELECT pg_snapshot_xip($2::text::pg_snapshot)))) \
                 AND (SELECT true FROM {{s}}.hearer WHERE number = $1 AND id = $3) \
                 AND (SELECT true FROM {{s}}.interest i WHERE i.topic = f.topic AND i.node = $1)"
        ),
    };
    format!("{head} UNION ALL {mail}{events} ORDER BY seq NULLS FIRST")
}

impl Statements {
    pub(crate) fn poll(&self, slots: u32) -> &SqlStr {
        &self.polls[slots as usize % self.polls.len()]
    }
}

/// The columns of a record, of a composite `c`.
macro_rules! record {
    ($c:literal) => {
        concat!(
            "(",
            $c,
            ").id, (",
            $c,
            ").endpoint, (",
            $c,
            ").generation, (",
            $c,
            ").phase, (",
            $c,
            ").at_gateway, (",
            $c,
            ").place, (",
            $c,
            ").connection, (",
            $c,
            ").opening, (",
            $c,
            ").state_version, (",
            $c,
            ").state, (",
            $c,
            ").session_version, (",
            $c,
            ").user_id, (",
            $c,
            ").user_value, (",
            $c,
            ").grace, {s}.micros((",
            $c,
            ").opened_at) AS opened_at, {s}.micros((",
            $c,
            ").due) AS due"
        )
    };
}

statements! {
    open = concat!("SELECT o_status, ", record!("o_channel"), " FROM {s}.open_channel($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)");
    get = concat!("SELECT ", record!("c"), " FROM {s}.channel c WHERE id = $1");
    find = concat!("SELECT ", record!("c"), " FROM {s}.channel c WHERE place = $1 AND connection = $2 AND at_gateway = $3");
    attach = concat!(
        "SELECT o_status, o_displaced_gateway, o_displaced_place, o_displaced_connection, ", record!("o_channel"),
        " FROM {s}.attach_channel($1, $2, $3, $4, $5, $6, $7)"
    );
    detach = "UPDATE {s}.channel SET phase = 2, due = CASE WHEN phase = 2 THEN due ELSE clock_timestamp() + {s}.millis($3) END \
              WHERE id = $1 AND generation = $2 AND phase < 3 RETURNING 1";
    write = concat!("SELECT o_status, ", record!("o_channel"), " FROM {s}.write_channel($1, $2, $3, $4, $5, $6, $7, $8, $9)");
    lock = "UPDATE {s}.channel SET lock_token = nextval('{s}.holder'), lock_until = clock_timestamp() + {s}.millis($2) \
            WHERE id = $1 AND phase < 3 AND (lock_until IS NULL OR lock_until <= clock_timestamp()) RETURNING lock_token";
    unlock = "UPDATE {s}.channel SET lock_token = NULL, lock_until = NULL \
              WHERE id = $1 AND lock_token = $2 AND lock_until > clock_timestamp() RETURNING 1";
    claim = concat!(
        "SELECT ", record!("c"), ", {s}.topics_of((c).id) AS topics FROM {s}.claim_channel($1, $2, $3, $4) c"
    );
    renew = "UPDATE {s}.channel SET due = clock_timestamp() + {s}.millis($3) \
             WHERE id = $1 AND generation = $2 AND phase = 3 RETURNING 1";
    remove = "SELECT {s}.remove_channels($1, $2, $3)";
    acquire_lease = "INSERT INTO {s}.node (id, until) VALUES ($1, clock_timestamp() + {s}.millis($2)) \
                     ON CONFLICT (id) DO UPDATE SET until = excluded.until RETURNING 1";
    renew_lease = "UPDATE {s}.node SET until = clock_timestamp() + {s}.millis($2) \
                   WHERE id = $1 AND until > clock_timestamp() RETURNING 1";
    release = "DELETE FROM {s}.node WHERE id = $1";
    claim_due = concat!(
        "SELECT ", record!("c"), ", {s}.topics_of((c).id) AS topics FROM {s}.claim_due($1, $2, $3, $4) c"
    );

    connected = "SELECT id FROM {s}.channel \
                 WHERE NOT at_gateway AND phase < 2 AND place = $1 AND id > $2 ORDER BY id LIMIT $3";

    subscribe = "SELECT * FROM {s}.subscribe_slice($1, $2, $3, $4, $5, $6, $7, $8, $9)";
    unsubscribe = "SELECT * FROM {s}.unsubscribe_slice($1, $2, $3, $4)";
    topics = "SELECT t.name FROM {s}.channel c JOIN {s}.member m ON m.channel = c.id JOIN {s}.topic t ON t.id = m.topic \
              WHERE c.id = $1 AND c.phase < 3";
    members = "SELECT * FROM {s}.page_of_members($1, $2, $3)";
    presence = "SELECT * FROM {s}.page_of_presence($1, $2, $3)";
    publish = "SELECT * FROM {s}.publish_slice($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";
    replay = "SELECT * FROM {s}.replay($1, $2, $3, $4, $5)";
    history = "SELECT * FROM {s}.history($1, $2)";
    deliver = "SELECT * FROM {s}.deliver_slice($1, $2, $3, $4, $5, $6, $7, $8, $9)";
    inbox = "SELECT * FROM {s}.replay_inbox($1, $2, $3, $4, $5)";
    relay = "SELECT relay_token, relay_epoch, relay_number, relay_mark FROM {s}.hold_relay($1, $2)";
    relay_done = "UPDATE {s}.topic SET relay_epoch = $3, relay_number = $4, relay_mark = $5, \
                  relay_token = CASE WHEN $6::bigint IS NULL THEN NULL ELSE relay_token END, \
                  relay_until = clock_timestamp() + {s}.millis($6) \
                  WHERE name = $1 AND relay_token = $2 RETURNING 1";

    new_place = "INSERT INTO {s}.life AS l DEFAULT VALUES ON CONFLICT (one) DO UPDATE SET id = l.id \
                 RETURNING nextval('{s}.holder') AS number, id AS life";
    passing = "SELECT name FROM {s}.topic WHERE name = ANY ($1) AND before IS NULL";
    join_bus = "SELECT {s}.join_bus($1, $2, $3, $4)";
    leave_bus = "SELECT {s}.leave_bus($1, $2)";
    beat_bus = "SELECT {s}.beat_bus($1, $2, $3)";
    hear = "SELECT * FROM {s}.hear($1, $2, $3, $4, $5)";
    unhear = "SELECT {s}.unhear($1, $2, $3)";
    send = "SELECT {s}.send_commands($1, $2, $3, $4, $5, $6, $7, $8, $9)";
    take_mail = "SELECT {s}.take_mail($1, $2)";
    sequence = "SELECT * FROM {s}.sequence_outbox($1)";
    rotate = "SELECT {s}.rotate_feed()";
    sweep = "SELECT {s}.sweep_topics($1)";
    notify = "SELECT set_config('synchronous_commit', 'off', true), pg_notify($1, $2)";
    enqueue = "SELECT {s}.enqueue($1, $2, $3, $4, $5, $6)";
}
