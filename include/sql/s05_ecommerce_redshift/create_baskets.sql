-- One row per transaction.
CREATE MATERIALIZED VIEW baskets DISTKEY (transaction_id) AUTO REFRESH NO AS
SELECT
    transaction_id,
    MIN(occurred_at) AS occurred_at,
    COUNT(*) AS lines,
    SUM(quantity) AS units,
    SUM(amount) AS net_sales
FROM sale_lines
GROUP BY transaction_id
