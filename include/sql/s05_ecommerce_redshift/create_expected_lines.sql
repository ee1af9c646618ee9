-- The ground truth of the last feed.
CREATE TABLE IF NOT EXISTS expected_lines (
    transaction_id VARCHAR(256)   NOT NULL,
    line_no        INTEGER        NOT NULL,
    occurred_at    TIMESTAMP      NOT NULL,
    quantity       INTEGER        NOT NULL,
    amount         DECIMAL(18, 2) NOT NULL
)
DISTKEY (transaction_id)
