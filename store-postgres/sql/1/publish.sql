-- For users' transactions: the event exists if and only if the transaction commits. Takes no lock that another
-- transaction waits for. These functions run in sessions that are not Strait's, so each sets its own search path.
CREATE FUNCTION {s}.enqueue(
    a_topic text, a_format smallint, a_payload bytea, a_key bytea, a_count bigint, a_age bigint
) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF a_topic IS NULL OR a_format IS NULL OR a_payload IS NULL THEN
        RAISE EXCEPTION 'topic, format and payload must not be null' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    IF octet_length(a_topic) NOT BETWEEN 1 AND 255 OR a_topic ~ E'[\\u0001-\\u001F\\u007F-\\u009F]' THEN
        RAISE EXCEPTION 'a topic has 1 to 255 bytes and no control characters' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF left(a_topic, 1) = '$' THEN
        RAISE EXCEPTION 'topics that begin with $ are Strait''s own' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF a_format NOT BETWEEN 0 AND 2 THEN
        RAISE EXCEPTION 'a format is 0 (JSON), 1 (text) or 2 (binary)' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF octet_length(a_payload) > 1048576 THEN
        RAISE EXCEPTION 'a payload has at most 1048576 bytes, this one has %', octet_length(a_payload)
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF octet_length(a_key) NOT BETWEEN 1 AND 256 THEN
        RAISE EXCEPTION 'a key has 1 to 256 bytes' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF (a_count IS NULL) <> (a_age IS NULL) THEN
        RAISE EXCEPTION 'keep_count and keep_age go together' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF a_count < 0 OR a_age < 0 THEN
        RAISE EXCEPTION 'keep_count and keep_age must not be negative' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    INSERT INTO {s}.outbox (topic, format, payload, key, keep, keep_count, keep_age)
        VALUES (a_topic, a_format, a_payload, sha256(a_key),
                CASE WHEN a_count IS NULL THEN 0 WHEN a_count = 0 THEN 1 ELSE 2 END,
                CASE WHEN a_count > 4294967295 THEN 4294967295 ELSE nullif(a_count, 0) END,
                CASE WHEN a_age > 3153600000000 THEN 3153600000000 ELSE a_age END);
END
$$;

-- A hundred years at most, as in Rust.
CREATE FUNCTION {s}.age_in_millis(age interval) RETURNS bigint LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN age > interval '100 years' THEN 3153600000000 ELSE (extract(epoch FROM age) * 1000)::bigint END
$$;

CREATE FUNCTION {s}.publish(
    topic text, payload jsonb, key text DEFAULT NULL, keep_count integer DEFAULT NULL, keep_age interval DEFAULT NULL
) RETURNS void LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT {s}.enqueue(topic, 0::smallint, convert_to(payload::text, 'UTF8'), convert_to(key, 'UTF8'), keep_count,
                       {s}.age_in_millis(keep_age))
$$;

CREATE FUNCTION {s}.publish_text(
    topic text, payload text, key text DEFAULT NULL, keep_count integer DEFAULT NULL, keep_age interval DEFAULT NULL
) RETURNS void LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT {s}.enqueue(topic, 1::smallint, convert_to(payload, 'UTF8'), convert_to(key, 'UTF8'), keep_count,
                       {s}.age_in_millis(keep_age))
$$;

CREATE FUNCTION {s}.publish_binary(
    topic text, payload bytea, key text DEFAULT NULL, keep_count integer DEFAULT NULL, keep_age interval DEFAULT NULL
) RETURNS void LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT {s}.enqueue(topic, 2::smallint, payload, convert_to(key, 'UTF8'), keep_count, {s}.age_in_millis(keep_age))
$$;
