-- Date and time. Redshift's clock is UTC.

CREATE FUNCTION pg_catalog.getdate() RETURNS timestamp LANGUAGE sql STABLE
    RETURN date_trunc('second', statement_timestamp() AT TIME ZONE 'UTC');

CREATE FUNCTION pg_catalog.redshift_sysdate() RETURNS timestamp LANGUAGE sql STABLE
    RETURN transaction_timestamp() AT TIME ZONE 'UTC';

CREATE FUNCTION pg_catalog.date_trunc(part text, moment date) RETURNS timestamp LANGUAGE sql IMMUTABLE STRICT
    RETURN date_trunc(part, moment::timestamp);

CREATE FUNCTION pg_catalog.dateadd(part text, amount bigint, moment timestamp) RETURNS timestamp
    LANGUAGE sql IMMUTABLE STRICT
    RETURN moment + amount * CASE part WHEN 'quarter' THEN interval '3 months' ELSE ('1 ' || part)::interval END;

CREATE FUNCTION pg_catalog.dateadd(part text, amount bigint, moment timestamptz) RETURNS timestamptz
    LANGUAGE sql STABLE STRICT
    RETURN dateadd(part, amount, moment AT TIME ZONE 'UTC') AT TIME ZONE 'UTC';

CREATE FUNCTION pg_catalog.dateadd(part text, amount bigint, moment date) RETURNS timestamp
    LANGUAGE sql IMMUTABLE STRICT
    RETURN dateadd(part, amount, moment::timestamp);

-- Counts the boundaries between two moments: https://docs.aws.amazon.com/redshift/latest/dg/r_DATEDIFF_function.html
CREATE FUNCTION pg_catalog.datediff(part text, first timestamp, last timestamp) RETURNS bigint
    LANGUAGE sql IMMUTABLE STRICT
    RETURN CASE
        WHEN part IN ('millennium', 'century', 'decade', 'year') THEN
            floor(extract(year FROM last)
                / CASE part WHEN 'millennium' THEN 1000 WHEN 'century' THEN 100 WHEN 'decade' THEN 10 ELSE 1 END)
            - floor(extract(year FROM first)
                / CASE part WHEN 'millennium' THEN 1000 WHEN 'century' THEN 100 WHEN 'decade' THEN 10 ELSE 1 END)
        WHEN part IN ('quarter', 'month') THEN
            floor((extract(year FROM last) * 12 + extract(month FROM last) - 1)
                / CASE part WHEN 'quarter' THEN 3 ELSE 1 END)
            - floor((extract(year FROM first) * 12 + extract(month FROM first) - 1)
                / CASE part WHEN 'quarter' THEN 3 ELSE 1 END)
        WHEN part IN ('millisecond', 'microsecond') THEN
            floor(extract(epoch FROM last) * CASE part WHEN 'millisecond' THEN 1000 ELSE 1000000 END)
            - floor(extract(epoch FROM first) * CASE part WHEN 'millisecond' THEN 1000 ELSE 1000000 END)
        ELSE
            extract(epoch FROM date_trunc(part, last) - date_trunc(part, first))
            / extract(epoch FROM ('1 ' || part)::interval)
        END::bigint;

CREATE FUNCTION pg_catalog.datediff(part text, first timestamptz, last timestamptz) RETURNS bigint
    LANGUAGE sql STABLE STRICT
    RETURN datediff(part, first AT TIME ZONE 'UTC', last AT TIME ZONE 'UTC');

CREATE FUNCTION pg_catalog.datediff(part text, first date, last date) RETURNS bigint LANGUAGE sql IMMUTABLE STRICT
    RETURN datediff(part, first::timestamp, last::timestamp);

CREATE FUNCTION pg_catalog.last_day(moment timestamp) RETURNS date LANGUAGE sql IMMUTABLE STRICT
    RETURN (date_trunc('month', moment) + interval '1 month - 1 day')::date;

-- The end of a month stays the end of a month: https://docs.aws.amazon.com/redshift/latest/dg/r_ADD_MONTHS.html
CREATE FUNCTION pg_catalog.add_months(moment timestamp, months bigint) RETURNS timestamp
    LANGUAGE sql IMMUTABLE STRICT
    RETURN CASE WHEN moment::date = last_day(moment)
        THEN last_day(dateadd('month', months, moment)) + moment::time
        ELSE dateadd('month', months, moment) END;

CREATE FUNCTION pg_catalog.months_between(last timestamp, first timestamp) RETURNS double precision
    LANGUAGE sql IMMUTABLE STRICT
    RETURN (extract(year FROM last) - extract(year FROM first)) * 12 + extract(month FROM last)
        - extract(month FROM first)
        + CASE WHEN extract(day FROM last) = extract(day FROM first)
                OR (last::date = last_day(last) AND first::date = last_day(first)) THEN 0
            ELSE (extract(epoch FROM last - date_trunc('month', last))
                - extract(epoch FROM first - date_trunc('month', first))) / 86400 / 31 END;

CREATE FUNCTION pg_catalog.trunc(moment timestamp) RETURNS date LANGUAGE sql IMMUTABLE STRICT
    RETURN moment::date;

CREATE FUNCTION pg_catalog.convert_timezone(source text, target text, moment timestamp) RETURNS timestamp
    LANGUAGE sql STABLE STRICT
    RETURN moment AT TIME ZONE source AT TIME ZONE target;

CREATE FUNCTION pg_catalog.convert_timezone(target text, moment timestamp) RETURNS timestamp
    LANGUAGE sql STABLE STRICT
    RETURN convert_timezone('UTC', target, moment);

-- Text and numbers.

CREATE FUNCTION pg_catalog.strtol(digits text, base integer) RETURNS bigint LANGUAGE plpgsql IMMUTABLE STRICT AS $$
DECLARE
    value bigint := 0;
    place integer;
    rest text := regexp_replace(lower(digits), '^[+-]?(0x)?', '');
BEGIN
    FOR i IN 1 .. length(rest) LOOP
        place := position(substr(rest, i, 1) IN '0123456789abcdefghijklmnopqrstuvwxyz') - 1;
        IF place NOT BETWEEN 0 AND base - 1 THEN
            RAISE EXCEPTION 'The input % is not valid to be converted to base %', digits, base;
        END IF;
        value := value * base + place;
    END LOOP;
    RETURN CASE WHEN digits LIKE '-%' THEN -value ELSE value END;
END $$;

CREATE FUNCTION pg_catalog.sha2(value text, bits integer) RETURNS text LANGUAGE sql IMMUTABLE STRICT
    RETURN encode(CASE bits WHEN 224 THEN sha224(convert_to(value, 'UTF8'))
        WHEN 384 THEN sha384(convert_to(value, 'UTF8')) WHEN 512 THEN sha512(convert_to(value, 'UTF8'))
        ELSE sha256(convert_to(value, 'UTF8')) END, 'hex');

-- AVG of whole numbers is a whole number: https://docs.aws.amazon.com/redshift/latest/dg/r_AVG.html
CREATE FUNCTION pg_catalog.redshift_avg_state(state numeric[], value smallint) RETURNS numeric[]
    LANGUAGE sql IMMUTABLE STRICT
    RETURN ARRAY[state[1] + value, state[2] + 1];

CREATE FUNCTION pg_catalog.redshift_avg_state(state numeric[], value integer) RETURNS numeric[]
    LANGUAGE sql IMMUTABLE STRICT
    RETURN ARRAY[state[1] + value, state[2] + 1];

CREATE FUNCTION pg_catalog.redshift_avg_state(state numeric[], value bigint) RETURNS numeric[]
    LANGUAGE sql IMMUTABLE STRICT
    RETURN ARRAY[state[1] + value, state[2] + 1];

CREATE FUNCTION pg_catalog.redshift_avg_end(state numeric[]) RETURNS bigint LANGUAGE sql IMMUTABLE STRICT
    RETURN CASE WHEN state[2] > 0 THEN trunc(state[1] / state[2])::bigint END;

CREATE AGGREGATE pg_catalog.redshift_avg(smallint) (
    SFUNC = pg_catalog.redshift_avg_state, STYPE = numeric[], INITCOND = '{0,0}',
    FINALFUNC = pg_catalog.redshift_avg_end
);
CREATE AGGREGATE pg_catalog.redshift_avg(integer) (
    SFUNC = pg_catalog.redshift_avg_state, STYPE = numeric[], INITCOND = '{0,0}',
    FINALFUNC = pg_catalog.redshift_avg_end
);
CREATE AGGREGATE pg_catalog.redshift_avg(bigint) (
    SFUNC = pg_catalog.redshift_avg_state, STYPE = numeric[], INITCOND = '{0,0}',
    FINALFUNC = pg_catalog.redshift_avg_end
);
CREATE AGGREGATE pg_catalog.redshift_avg(numeric) (
    SFUNC = numeric_avg_accum, STYPE = internal, FINALFUNC = numeric_avg
);
CREATE AGGREGATE pg_catalog.redshift_avg(double precision) (
    SFUNC = float8_accum, STYPE = float8[], INITCOND = '{0,0,0}', FINALFUNC = float8_avg
);

-- JSON in text and SUPER, which is jsonb here.

CREATE FUNCTION pg_catalog.is_valid_json(value text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE STRICT AS $$
BEGIN
    RETURN json_typeof(value::json) = 'object';
EXCEPTION WHEN invalid_text_representation THEN
    RETURN false;
END $$;

CREATE FUNCTION pg_catalog.is_valid_json_array(value text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE STRICT AS $$
BEGIN
    RETURN json_typeof(value::json) = 'array';
EXCEPTION WHEN invalid_text_representation THEN
    RETURN false;
END $$;

CREATE FUNCTION pg_catalog.can_json_parse(value text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE STRICT AS $$
BEGIN
    RETURN value::json IS NOT NULL;
EXCEPTION WHEN invalid_text_representation THEN
    RETURN false;
END $$;

CREATE FUNCTION pg_catalog.redshift_json_text(value text, null_if_invalid boolean, VARIADIC path text[]) RETURNS text
    LANGUAGE sql IMMUTABLE
    RETURN CASE WHEN null_if_invalid AND NOT can_json_parse(value) THEN NULL ELSE value::json #>> path END;

CREATE FUNCTION pg_catalog.json_extract_array_element_text(value text, place integer) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT
    RETURN value::json ->> place;

CREATE FUNCTION pg_catalog.json_array_length(value text) RETURNS integer LANGUAGE sql IMMUTABLE STRICT
    RETURN json_array_length(value::json);

CREATE FUNCTION pg_catalog.json_parse(value text) RETURNS jsonb LANGUAGE sql IMMUTABLE STRICT
    RETURN value::jsonb;

CREATE FUNCTION pg_catalog.json_serialize(value jsonb) RETURNS text LANGUAGE sql IMMUTABLE STRICT
    RETURN value::text;

CREATE FUNCTION pg_catalog.json_typeof(value jsonb) RETURNS text LANGUAGE sql IMMUTABLE STRICT
    RETURN jsonb_typeof(value);

CREATE FUNCTION pg_catalog.get_array_length(value jsonb) RETURNS integer LANGUAGE sql IMMUTABLE STRICT
    RETURN CASE WHEN jsonb_typeof(value) = 'array' THEN jsonb_array_length(value) END;

-- What COPY did: https://docs.aws.amazon.com/redshift/latest/dg/PG_LAST_COPY_COUNT.html

CREATE FUNCTION pg_catalog.pg_last_copy_count() RETURNS bigint LANGUAGE sql STABLE
    RETURN coalesce(nullif(current_setting('redshift.last_copy_count', true), ''), '0')::bigint;

CREATE FUNCTION pg_catalog.pg_last_copy_id() RETURNS bigint LANGUAGE sql STABLE
    RETURN coalesce(nullif(current_setting('redshift.last_copy_id', true), ''), '-1')::bigint;

CREATE SCHEMA redshift_system;

CREATE SEQUENCE redshift_system.query_id START 1000;

-- https://docs.aws.amazon.com/redshift/latest/dg/SYS_LOAD_ERROR_DETAIL.html
CREATE TABLE redshift_system.load_error (
    user_id        integer,
    query_id       bigint,
    child_query_sequence integer,
    session_id     integer,
    transaction_id bigint,
    database_name  varchar(64),
    table_id       integer,
    start_time     timestamp DEFAULT (statement_timestamp() AT TIME ZONE 'UTC'),
    file_name      varchar(256),
    line_number    bigint,
    column_name    varchar(127),
    column_type    varchar(10),
    column_length  varchar(10),
    "position"     integer,
    error_code     integer,
    error_message  varchar(512)
);

-- https://docs.aws.amazon.com/redshift/latest/dg/SYS_LOAD_HISTORY.html
CREATE TABLE redshift_system.load_history (
    user_id         integer,
    query_id        bigint,
    status          varchar(10),
    session_id      integer,
    database_name   varchar(64),
    table_name      varchar(256),
    data_source     varchar(1024),
    file_format     varchar(16),
    start_time      timestamp,
    end_time        timestamp,
    duration        bigint,
    loaded_rows     bigint,
    loaded_bytes    bigint,
    source_file_count integer,
    source_file_bytes bigint,
    error_count     bigint,
    error_message   varchar(512)
);

-- Everybody sees their own loads, the administrator all.
CREATE VIEW pg_catalog.sys_load_error_detail AS
    SELECT * FROM redshift_system.load_error
    WHERE user_id = (SELECT oid::bigint::integer FROM pg_roles WHERE rolname = current_user)
        OR (SELECT rolsuper FROM pg_roles WHERE rolname = current_user);

CREATE VIEW pg_catalog.sys_load_history AS
    SELECT * FROM redshift_system.load_history
    WHERE user_id = (SELECT oid::bigint::integer FROM pg_roles WHERE rolname = current_user)
        OR (SELECT rolsuper FROM pg_roles WHERE rolname = current_user);

-- https://docs.aws.amazon.com/redshift/latest/dg/r_STL_LOAD_ERRORS.html
CREATE VIEW pg_catalog.stl_load_errors AS
    SELECT user_id AS userid, query_id AS query, table_id AS tbl, start_time AS starttime, session_id AS session,
        file_name AS filename, line_number, column_name AS colname, column_type AS type, column_length AS col_length,
        "position", error_code AS err_code, error_message AS err_reason
    FROM pg_catalog.sys_load_error_detail;

-- https://docs.aws.amazon.com/redshift/latest/dg/r_SVV_TABLE_INFO.html, what there is to say about a table here
CREATE VIEW pg_catalog.svv_table_info AS
    SELECT current_database()::varchar AS database, schemaname::varchar AS schema, relid::bigint AS table_id,
        relname::varchar AS "table", n_live_tup::numeric AS tbl_rows
    FROM pg_stat_user_tables WHERE schemaname <> 'redshift_system';

-- https://docs.aws.amazon.com/redshift/latest/dg/r_SVV_MV_INFO.html; a comment marks the views that refresh themselves
CREATE VIEW pg_catalog.svv_mv_info AS
    SELECT current_database()::varchar AS database_name, schemaname::varchar AS schema_name,
        matviewname::varchar AS name, matviewowner::varchar AS user_name,
        obj_description(format('%I.%I', schemaname, matviewname)::regclass) IS NOT DISTINCT FROM 'AUTO REFRESH YES'
            AS autorefresh
    FROM pg_matviews;

GRANT SELECT ON pg_catalog.sys_load_error_detail, pg_catalog.sys_load_history, pg_catalog.stl_load_errors,
    pg_catalog.svv_table_info, pg_catalog.svv_mv_info TO PUBLIC;
