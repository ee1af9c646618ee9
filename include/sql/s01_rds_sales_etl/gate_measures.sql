-- One row of measures over what is staged; include/expectations says what each may be.
{%- set end = ti.xcom_pull('plan')['end'] %}
{%- set load = ti.xcom_pull('load_totals') %}
{%- set of_load = "source_file IN ('" ~ (load['files'] or ['']) | join("', '") ~ "')" %}
WITH
{% include 's01_rds_sales_etl/_candidate_lines.sql' %}
SELECT
    (SELECT count(*) FROM s01_staging_unmatched_lines) AS unmatched_lines,
    (
        SELECT count(*) FROM candidate l LEFT JOIN s01_staging_customers c ON c.customer_id = l.customer_id
        WHERE l.customer_id IS NOT NULL AND c.customer_id IS NULL
    ) AS lines_without_customer,
    count_if(unit_price < 0) AS negative_prices,
    count_if(ordered_at > from_iso8601_timestamp('{{ end }}')) AS future_lines,
    count(*) - count(DISTINCT invoice_no || '/' || cast(line_no AS varchar)) AS duplicate_lines,
    count_if(amount IS DISTINCT FROM round(quantity * unit_price * rate, 2)) AS wrong_amounts,
    (SELECT sum(net_sales) FROM s01_staging_daily_sales) - sum(amount) AS daily_difference,
    (SELECT sum(net_sales) FROM s01_staging_weekly_sales) - sum(amount) AS weekly_difference,
    date_diff('minute', max(updated_at), from_iso8601_timestamp('{{ end }}')) AS minutes_since_change,
    {{ load['lines'] }} - count_if({{ of_load }}) AS lines_not_arrived,
    DECIMAL '{{ load['control_total'] }}' - sum(IF({{ of_load }}, quantity * unit_price, 0)) AS control_difference
FROM candidate
