-- The source of the MERGE, which takes a table and wants each key once. Emptied by every load.
CREATE TABLE IF NOT EXISTS distinct_lines (LIKE sale_lines)
