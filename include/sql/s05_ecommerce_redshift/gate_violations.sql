-- Up to 20 lines that break a rule of the gate.
SELECT * FROM (
    SELECT 'missing_lines' AS rule, e.transaction_id, e.line_no, e.amount::VARCHAR AS detail
    FROM expected_lines e
    LEFT JOIN sale_lines s ON s.transaction_id = e.transaction_id AND s.line_no = e.line_no
    WHERE s.transaction_id IS NULL
    UNION ALL
    SELECT 'changed_lines', e.transaction_id, e.line_no, e.amount::VARCHAR || ' expected, found ' || s.amount::VARCHAR
    FROM expected_lines e JOIN sale_lines s ON s.transaction_id = e.transaction_id AND s.line_no = e.line_no
    WHERE s.amount <> e.amount OR s.quantity <> e.quantity OR s.occurred_at <> e.occurred_at
    UNION ALL
    SELECT 'duplicate_lines', transaction_id, line_no, COUNT(*)::VARCHAR || ' rows'
    FROM sale_lines GROUP BY transaction_id, line_no HAVING COUNT(*) > 1
    UNION ALL
    SELECT 'wrong_amounts', transaction_id, line_no, amount::VARCHAR
    FROM sale_lines WHERE amount <> ROUND(quantity * unit_price * exchange_rate, 2)
    UNION ALL
    SELECT 'future_lines', transaction_id, line_no, occurred_at::VARCHAR
    FROM sale_lines WHERE occurred_at > GETDATE() + INTERVAL '1 hour'
) violations
ORDER BY rule, transaction_id, line_no
LIMIT 20
