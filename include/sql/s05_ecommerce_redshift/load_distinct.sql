-- Of a line that came several times, the copy with the lowest sequence number: the same one in every repetition.
-- Late is what belongs into a minute that was already published when it came, five minutes of grace included.
INSERT INTO distinct_lines
SELECT
    transaction_id, line_no, occurred_at, arrived_at, customer_id, country, product_id, product_name, category,
    quantity, unit_price, currency, exchange_rate, amount, shard_id, sequence_number,
    occurred_at < (SELECT COALESCE(MAX(occurred_at), '1970-01-01') FROM sale_lines) - INTERVAL '5 minutes' AS late,
    copies AS deliveries
FROM (
    SELECT
        *,
        ROW_NUMBER() OVER (PARTITION BY transaction_id, line_no ORDER BY LPAD(sequence_number, 128, '0')) AS copy_no,
        COUNT(*) OVER (PARTITION BY transaction_id, line_no) AS copies
    FROM arrived_lines
) numbered
WHERE copy_no = 1
