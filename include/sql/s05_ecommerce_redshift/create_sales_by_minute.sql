-- Event time; a late line changes its own minute. Refreshed incrementally: sums and counts, nothing distinct.
CREATE MATERIALIZED VIEW sales_by_minute AUTO REFRESH NO AS
SELECT
    DATE_TRUNC('minute', occurred_at) AS minute,
    COUNT(*) AS lines,
    SUM(quantity) AS units,
    SUM(CASE WHEN quantity > 0 THEN amount ELSE 0 END) AS revenue,
    SUM(CASE WHEN quantity < 0 THEN amount ELSE 0 END) AS returns,
    SUM(amount) AS net_sales,
    SUM(CASE WHEN late THEN 1 ELSE 0 END) AS late_lines
FROM sale_lines
GROUP BY DATE_TRUNC('minute', occurred_at)
