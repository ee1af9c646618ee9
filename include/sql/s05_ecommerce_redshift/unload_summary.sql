UNLOAD ($$
    SELECT
        COUNT(*) AS baskets,
        SUM(CASE WHEN units < 0 THEN 1 ELSE 0 END) AS returned_baskets,
        ROUND(AVG(CASE WHEN units > 0 THEN net_sales END), 2) AS average_basket_gbp,
        ROUND(AVG(CASE WHEN units > 0 THEN lines::DECIMAL(18, 2) END), 2) AS average_lines,
        SUM(net_sales) AS net_sales_gbp,
        (SELECT SUM(CASE WHEN deliveries > 1 THEN 1 ELSE 0 END) FROM sale_lines) AS lines_delivered_again,
        (SELECT SUM(late_lines) FROM sales_by_minute) AS late_lines
    FROM baskets
$$)
TO '{{ ti.xcom_pull('feed')['folder'] }}/summary_'
IAM_ROLE DEFAULT
FORMAT CSV HEADER PARALLEL OFF ALLOWOVERWRITE
