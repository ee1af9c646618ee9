-- Trino functions and operators that DuckDB lacks or computes differently, as DuckDB macros.
-- Semantics: https://trino.io/docs/current/functions.html

CREATE MACRO scale_of(x) AS
    CAST(coalesce(nullif(regexp_extract(typeof(x), 'DECIMAL\(\d+,(\d+)\)', 1), ''), '0') AS INTEGER);

-- A decimal without its point: the whole number of smallest units.
CREATE MACRO unscaled(x) AS CAST(replace(CAST(x AS VARCHAR), '.', '') AS HUGEINT);

CREATE MACRO half_up(n, d) AS
    (CASE WHEN (n < 0) = (d < 0) THEN 1 ELSE -1 END) * ((2 * abs(n) + abs(d)) // (2 * abs(d)));

CREATE MACRO decimal_text(units, scale) AS
    (CASE WHEN units < 0 THEN '-' ELSE '' END)
    || CASE WHEN scale = 0 THEN CAST(abs(units) AS VARCHAR)
       ELSE regexp_replace(
           lpad(CAST(abs(units) AS VARCHAR),
                CAST(greatest(scale + 1, length(CAST(abs(units) AS VARCHAR))) AS INTEGER), '0'),
           '(.{' || scale || '})$', '.\1') END;

CREATE MACRO quotient_text(a, b, scale) AS
    decimal_text(
        half_up(unscaled(a) * CAST(pow(10::DOUBLE, scale + scale_of(b) - scale_of(a)) AS HUGEINT),
                nullif(unscaled(b), 0)),
        scale);

-- Trino's "/": whole numbers truncate, decimals stay exact and round half up, doubles divide.
-- The text in between lets one expression serve every type; DuckDB keeps only the branch that applies.
CREATE MACRO divided(a, b, by_zero) AS cast_to_type(
    CASE WHEN typeof(a + b) IN ('DOUBLE', 'FLOAT') THEN CAST(CAST(a AS DOUBLE) / CAST(b AS DOUBLE) AS VARCHAR)
         WHEN b = 0 THEN by_zero
         WHEN typeof(a + b) LIKE 'DECIMAL%' THEN quotient_text(a, b, scale_of(a + b))
         ELSE CAST(a // nullif(b, 0) AS VARCHAR) END,
    (a + b) * 1::INTEGER * 1::INTEGER);
CREATE MACRO trino_divide(a, b) AS divided(a, b, error('Division by zero'));
CREATE MACRO trino_try_divide(a, b) AS divided(a, b, NULL);

-- avg: of decimals a decimal of the same scale, of everything else a double; the caller passes the aggregates.
CREATE MACRO trino_avg(total, number, mean, type_of_mean) AS cast_to_type(
    CASE WHEN typeof(total) LIKE 'DECIMAL%' THEN quotient_text(total, number, scale_of(total))
         ELSE CAST(mean AS VARCHAR) END,
    type_of_mean);

CREATE MACRO trino_text(x) AS
    CASE WHEN typeof(x) IN ('TIMESTAMP', 'TIMESTAMP_S', 'TIMESTAMP_MS', 'TIMESTAMP_NS')
         THEN strftime(TRY_CAST(CAST(x AS VARCHAR) AS TIMESTAMP), '%Y-%m-%d %H:%M:%S.%g')
         ELSE CAST(x AS VARCHAR) END;

CREATE MACRO trino_regexp_extract(x, pattern, part := 0) AS
    CASE WHEN regexp_matches(x, pattern) THEN regexp_extract(x, pattern, part) END;
CREATE MACRO trino_split_part(x, delimiter, n) AS str_split(x, delimiter)[n];

CREATE MACRO map_agg(k, v) AS map(list(k) FILTER (k IS NOT NULL), list(v) FILTER (k IS NOT NULL));
CREATE MACRO at_timezone(x, zone) AS timezone(zone, x);
CREATE MACRO with_timezone(x, zone) AS timezone(zone, x);
CREATE MACRO to_iso8601(x) AS
    CASE WHEN typeof(x) = 'DATE' THEN CAST(x AS VARCHAR)
         ELSE strftime(CAST(CAST(x AS VARCHAR) AS TIMESTAMP), '%Y-%m-%dT%H:%M:%S.%g')
              || CASE WHEN typeof(x) LIKE '%ZONE' THEN 'Z' ELSE '' END END;
CREATE MACRO from_iso8601_date(x) AS CAST(x AS DATE);

CREATE MACRO url_part(x, n) AS
    nullif(regexp_extract(x, '^(?:([^:/?#]+):)?(?://(?:[^/?#@]*@)?([^/?#:]*)(?::(\d+))?)?([^?#]*)(?:\?([^#]*))?(?:#(.*))?',
                          n), '');
CREATE MACRO url_extract_protocol(x) AS url_part(x, 1);
CREATE MACRO url_extract_host(x) AS url_part(x, 2);
CREATE MACRO url_extract_port(x) AS CAST(url_part(x, 3) AS BIGINT);
CREATE MACRO url_extract_path(x) AS coalesce(url_part(x, 4), '');
CREATE MACRO url_extract_query(x) AS url_part(x, 5);
CREATE MACRO url_extract_fragment(x) AS url_part(x, 6);
CREATE MACRO url_extract_parameter(x, name) AS url_decode(nullif(
    regexp_extract('&' || url_part(x, 5), '&' || name || '=([^&]*)', 1), ''));


-- The n-th folder of a scanned file's address is name=value, the value URL-encoded.
CREATE MACRO partition_value(address, n) AS nullif(
    url_decode(split_part(split_part(address, '/', n), '=', 2)), '__HIVE_DEFAULT_PARTITION__');
CREATE MACRO object_address(address, n) AS 's3://' || url_decode(split_part(address, '/', n));
