-- DELETE, because TRUNCATE would commit in the middle of the load.
DELETE FROM arrived_lines
