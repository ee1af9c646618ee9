-- What the feed sent and the warehouse does not have yet.
SELECT COUNT(*) AS missing, MIN(expected_lines.transaction_id) AS example
FROM expected_lines
LEFT JOIN sale_lines
    ON sale_lines.transaction_id = expected_lines.transaction_id AND sale_lines.line_no = expected_lines.line_no
WHERE sale_lines.transaction_id IS NULL
