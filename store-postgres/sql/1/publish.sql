-- For users' transactions: the event exists if and only if the transaction commits. Takes no lock that another
-- transaction waits for.
CREATE FUNCTION {s}.enqueue(
    a_topic text, a_format smallint, a_payload bytea, a_key bytea, a_count bigint, a_age bigint
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF octet_length(a_topic) NOT BETWEEN 1 AND 255 OR a_topic ~ E'[\\u0001-\\u001F\\u007F-\\u009F]' THEN
        RAISE EXCEPTION 'a topic has 1 to 255 bytes and no control characters' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF a_payload IS NULL OR a_topic IS NULL THEN
        RAISE EXCEPTION 'topic and payload must not be null' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    IF (a_count IS NULL) <> (a_age IS NULL) THEN
        RAISE EXCEPTION 'keep_count and keep_age go together' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF a_count < 0 OR a_age < 0 THEN
        RAISE EXCEPTION 'keep_count and keep_age must not be negative' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    INSERT INTO {s}.outbox (topic, format, payload, key, keep, keep_count, keep_age)
        VALUES (a_topic, a_format, a_payload, sha256(a_key),
                CASE WHEN a_count IS NULL THEN 0 WHEN a_count = 0 THEN 1 ELSE 2 END, nullif(a_count, 0), a_age);
END
$$;

CREATE FUNCTION {s}.publish(
    topic text, payload jsonb, key text DEFAULT NULL, keep_count integer DEFAULT NULL, keep_age interval DEFAULT NULL
) RETURNS void LANGUAGE sql AS $$
    SELECT {s}.enqueue(topic, 0::smallint, convert_to(payload::text, 'UTF8'), convert_to(key, 'UTF8'), keep_count,
                       (extract(epoch FROM keep_age) * 1000)::bigint)
$$;

CREATE FUNCTION {s}.publish_text(
    topic text, payload text, key text DEFAULT NULL, keep_count integer DEFAULT NULL, keep_age interval DEFAULT NULL
) RETURNS void LANGUAGE sql AS $$
    SELECT {s}.enqueue(topic, 1::smallint, convert_to(payload, 'UTF8'), convert_to(key, 'UTF8'), keep_count,
                       (extract(epoch FROM keep_age) * 1000)::bigint)
$$;

CREATE FUNCTION {s}.publish_binary(
    topic text, payload bytea, key text DEFAULT NULL, keep_count integer DEFAULT NULL, keep_age interval DEFAULT NULL
) RETURNS void LANGUAGE sql AS $$
    SELECT {s}.enqueue(topic, 2::smallint, payload, convert_to(key, 'UTF8'), keep_count,
                       (extract(epoch FROM keep_age) * 1000)::bigint)
$$;
