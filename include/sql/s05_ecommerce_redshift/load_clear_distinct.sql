DELETE FROM distinct_lines
