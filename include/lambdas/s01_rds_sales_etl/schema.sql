-- The sales source as an order system keeps it. Like many that grew over years it enforces little: an order may name a
-- customer that does not exist, and the application, not the database, is trusted with prices. The quality gate is
-- what notices.

CREATE TABLE IF NOT EXISTS customers (
    customer_id text PRIMARY KEY,
    country     text        NOT NULL,
    updated_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE IF NOT EXISTS orders (
    invoice_no  text PRIMARY KEY,
    customer_id text,
    country     text        NOT NULL,
    currency    char(3)     NOT NULL,
    ordered_at  timestamptz NOT NULL,
    source_file text        NOT NULL,
    updated_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE IF NOT EXISTS order_items (
    invoice_no  text           NOT NULL,
    line_no     integer        NOT NULL,
    stock_code  text           NOT NULL,
    description text           NOT NULL,
    quantity    integer        NOT NULL,
    unit_price  numeric(12, 4) NOT NULL,
    deleted     boolean        NOT NULL DEFAULT false,
    updated_at  timestamptz    NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (invoice_no, line_no)
);

CREATE TABLE IF NOT EXISTS exchange_rates (
    currency   char(3)        NOT NULL,
    rate_date  date           NOT NULL,
    rate       numeric(12, 6) NOT NULL,
    updated_at timestamptz    NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (currency, rate_date)
);

CREATE INDEX IF NOT EXISTS orders_customer_id ON orders (customer_id);

-- The extraction reads by updated_at, so each change must move it, whoever makes it, and an index must serve it.
CREATE INDEX IF NOT EXISTS customers_updated_at ON customers (updated_at);
CREATE INDEX IF NOT EXISTS orders_updated_at ON orders (updated_at);
CREATE INDEX IF NOT EXISTS order_items_updated_at ON order_items (updated_at);

CREATE OR REPLACE FUNCTION stamp_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.updated_at := clock_timestamp();
    RETURN NEW;
END $$;

CREATE OR REPLACE TRIGGER customers_stamp BEFORE INSERT OR UPDATE ON customers
    FOR EACH ROW EXECUTE FUNCTION stamp_change();
CREATE OR REPLACE TRIGGER orders_stamp BEFORE INSERT OR UPDATE ON orders
    FOR EACH ROW EXECUTE FUNCTION stamp_change();
CREATE OR REPLACE TRIGGER order_items_stamp BEFORE INSERT OR UPDATE ON order_items
    FOR EACH ROW EXECUTE FUNCTION stamp_change();
CREATE OR REPLACE TRIGGER exchange_rates_stamp BEFORE INSERT OR UPDATE ON exchange_rates
    FOR EACH ROW EXECUTE FUNCTION stamp_change();
