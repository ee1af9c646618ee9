COPY expected_lines (transaction_id, line_no, occurred_at, quantity, amount)
FROM '{{ ti.xcom_pull('feed')['truth'] }}'
IAM_ROLE DEFAULT
CSV GZIP TIMEFORMAT 'auto'
