-- The first delivery of a line stands; a later one is only counted.
MERGE INTO sale_lines
USING distinct_lines
ON sale_lines.transaction_id = distinct_lines.transaction_id AND sale_lines.line_no = distinct_lines.line_no
WHEN MATCHED THEN UPDATE SET deliveries = sale_lines.deliveries + distinct_lines.deliveries
WHEN NOT MATCHED THEN INSERT VALUES (
    distinct_lines.transaction_id, distinct_lines.line_no, distinct_lines.occurred_at, distinct_lines.arrived_at,
    distinct_lines.customer_id, distinct_lines.country, distinct_lines.product_id, distinct_lines.product_name,
    distinct_lines.category, distinct_lines.quantity, distinct_lines.unit_price, distinct_lines.currency,
    distinct_lines.exchange_rate, distinct_lines.amount, distinct_lines.shard_id, distinct_lines.sequence_number,
    distinct_lines.late, distinct_lines.deliveries
)
