UNLOAD ($$
    SELECT DATE_TRUNC('day', minute) AS day, SUM(revenue) AS revenue, SUM(returns) AS returns
    FROM sales_by_minute
    WHERE minute >= (SELECT MAX(minute) FROM sales_by_minute) - INTERVAL '28 days'
    GROUP BY 1
    ORDER BY 1
$$)
TO '{{ ti.xcom_pull('feed')['folder'] }}/days_'
IAM_ROLE DEFAULT
FORMAT CSV HEADER PARALLEL OFF ALLOWOVERWRITE
