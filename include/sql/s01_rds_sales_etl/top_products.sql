SELECT rank, stock_code, description, units, net_sales FROM s01_published_top_products ORDER BY rank LIMIT 10
