-- One row of measures; include/expectations says what each may be. Without a feed the ground truth is empty.
SELECT
    (
        SELECT COUNT(*) FROM expected_lines e
        LEFT JOIN sale_lines s ON s.transaction_id = e.transaction_id AND s.line_no = e.line_no
        WHERE s.transaction_id IS NULL
    ) AS missing_lines,
    (
        SELECT COUNT(*) FROM sale_lines s
        LEFT JOIN expected_lines e ON s.transaction_id = e.transaction_id AND s.line_no = e.line_no
        WHERE e.transaction_id IS NULL AND s.transaction_id IN (SELECT transaction_id FROM expected_lines)
    ) AS unexpected_lines,
    (
        SELECT COALESCE(SUM(s.amount), 0) FROM sale_lines s
        WHERE s.transaction_id IN (SELECT transaction_id FROM expected_lines)
    ) - (SELECT COALESCE(SUM(amount), 0) FROM expected_lines) AS amount_difference,
    (
        SELECT COUNT(*) FROM expected_lines e
        JOIN sale_lines s ON s.transaction_id = e.transaction_id AND s.line_no = e.line_no
        WHERE s.amount <> e.amount OR s.quantity <> e.quantity OR s.occurred_at <> e.occurred_at
    ) AS changed_lines,
    (
        SELECT COUNT(*) FROM (SELECT 1 FROM sale_lines GROUP BY transaction_id, line_no HAVING COUNT(*) > 1) twice
    ) AS duplicate_lines,
    (
        SELECT COUNT(*) FROM sale_lines WHERE amount <> ROUND(quantity * unit_price * exchange_rate, 2)
    ) AS wrong_amounts,
    (
        SELECT COUNT(DISTINCT DATE_TRUNC('minute', e.occurred_at)) FROM expected_lines e
        LEFT JOIN sales_by_minute m ON m.minute = DATE_TRUNC('minute', e.occurred_at)
        WHERE m.minute IS NULL
    ) AS missing_minutes,
    (SELECT COALESCE(SUM(net_sales), 0) FROM sales_by_minute) - (SELECT COALESCE(SUM(amount), 0) FROM sale_lines)
        AS minute_difference,
    (SELECT COALESCE(SUM(net_sales), 0) FROM baskets) - (SELECT COALESCE(SUM(amount), 0) FROM sale_lines)
        AS basket_difference,
    (SELECT COUNT(*) FROM sale_lines WHERE occurred_at > GETDATE() + INTERVAL '1 hour') AS future_lines
