SELECT segment, count(*) AS customers, sum(monetary) AS net_sales
FROM s01_published_customer_segments GROUP BY segment ORDER BY net_sales DESC
