-- One row per line of a transaction. Redshift enforces no keys: the MERGE of load_merge.sql keeps the pair unique.
CREATE TABLE IF NOT EXISTS sale_lines (
    transaction_id  VARCHAR(256)   NOT NULL,
    line_no         INTEGER        NOT NULL,
    occurred_at     TIMESTAMP      NOT NULL,
    arrived_at      TIMESTAMP      NOT NULL,
    customer_id     VARCHAR(256),
    country         VARCHAR(256)   NOT NULL,
    product_id      VARCHAR(256)   NOT NULL,
    product_name    VARCHAR(512),
    category        VARCHAR(64)    NOT NULL,
    quantity        INTEGER        NOT NULL,
    unit_price      DECIMAL(18, 6) NOT NULL,
    currency        CHAR(3)        NOT NULL,
    exchange_rate   DECIMAL(18, 6) NOT NULL,
    amount          DECIMAL(18, 2) NOT NULL, -- GBP
    shard_id        VARCHAR(32)    NOT NULL,
    sequence_number VARCHAR(128)   NOT NULL,
    late            BOOLEAN        NOT NULL, -- its minute had been published before
    deliveries      INTEGER        NOT NULL, -- how many copies of it came
    PRIMARY KEY (transaction_id, line_no)
)
DISTKEY (transaction_id)
SORTKEY (occurred_at)
