-- What the published lines would be after this run: the staged days, and the published ones that were not rebuilt.
candidate AS (
    SELECT * FROM s01_staging_sales_lines
    UNION ALL
    SELECT * FROM s01_published_sales_lines
    WHERE order_date NOT IN (SELECT order_date FROM s01_staging_rebuilt_days)
)
