-- Which objects are loaded: written in the transaction that loads them.
CREATE TABLE IF NOT EXISTS load_ledger (
    object_key VARCHAR(1024) NOT NULL,
    manifest   VARCHAR(1024) NOT NULL,
    loaded_at  TIMESTAMP     NOT NULL DEFAULT GETDATE(),
    PRIMARY KEY (object_key)
)
SORTKEY (object_key)
