SELECT order_date, net_sales, net_sales_7_day_average FROM s01_published_daily_sales ORDER BY order_date
