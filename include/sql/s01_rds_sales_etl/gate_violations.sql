-- Up to 20 lines that break a rule of the gate.
{%- set end = ti.xcom_pull('plan')['end'] %}
WITH
{% include 's01_rds_sales_etl/_candidate_lines.sql' %}
SELECT * FROM (
    SELECT 'negative_prices' AS rule, invoice_no, line_no, stock_code, customer_id,
           cast(unit_price AS varchar) AS detail
    FROM candidate WHERE unit_price < 0
    UNION ALL
    SELECT 'lines_without_customer', l.invoice_no, l.line_no, l.stock_code, l.customer_id, 'customer is missing'
    FROM candidate l LEFT JOIN s01_staging_customers c ON c.customer_id = l.customer_id
    WHERE l.customer_id IS NOT NULL AND c.customer_id IS NULL
    UNION ALL
    SELECT 'future_lines', invoice_no, line_no, stock_code, customer_id, cast(ordered_at AS varchar)
    FROM candidate WHERE ordered_at > from_iso8601_timestamp('{{ end }}')
    UNION ALL
    SELECT 'unmatched_lines', invoice_no, line_no, NULL, NULL, reason FROM s01_staging_unmatched_lines
) violations
ORDER BY rule, invoice_no, line_no
LIMIT 20
