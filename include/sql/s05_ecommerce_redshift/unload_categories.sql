UNLOAD ($$
    SELECT category, COUNT(*) AS lines, SUM(quantity) AS units, SUM(amount) AS net_sales
    FROM sale_lines
    GROUP BY category
    ORDER BY net_sales DESC
$$)
TO '{{ ti.xcom_pull('feed')['folder'] }}/categories_'
IAM_ROLE DEFAULT
FORMAT CSV HEADER PARALLEL OFF ALLOWOVERWRITE
