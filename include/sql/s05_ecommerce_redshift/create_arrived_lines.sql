-- What COPY reads: the columns of the delivered objects. Emptied by every load.
CREATE TABLE IF NOT EXISTS arrived_lines (
    transaction_id  VARCHAR(256),
    line_no         INTEGER,
    occurred_at     TIMESTAMP,
    arrived_at      TIMESTAMP,
    customer_id     VARCHAR(256),
    country         VARCHAR(256),
    product_id      VARCHAR(256),
    product_name    VARCHAR(512),
    category        VARCHAR(64),
    quantity        INTEGER,
    unit_price      DECIMAL(18, 6),
    currency        CHAR(3),
    exchange_rate   DECIMAL(18, 6),
    amount          DECIMAL(18, 2),
    shard_id        VARCHAR(32),
    sequence_number VARCHAR(128)
)
DISTKEY (transaction_id)
