DELETE FROM expected_lines
