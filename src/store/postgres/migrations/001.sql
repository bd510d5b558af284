-- The first layout: customers, their data keys and secrets, and what replicas share beside them.
-- Everything that is sealed or wrapped is bytes; none of it can be read without the KMS key.

-- A customer's row is what everything of the customer is added under: it is locked while that is done, so that
-- neither a replaced data key nor a customer that is being forgotten is added to.
CREATE TABLE relay.customers (
    customer   text COLLATE "C" PRIMARY KEY,
    active     uuid,
    forgetting boolean NOT NULL DEFAULT false
);
CREATE INDEX customers_forgetting ON relay.customers (customer) WHERE forgetting;

CREATE TABLE relay.data_keys (
    customer text COLLATE "C" NOT NULL REFERENCES relay.customers,
    id       uuid NOT NULL,
    wrapped  bytea NOT NULL,
    PRIMARY KEY (customer, id)
);

-- An id has one customer, and every query but the one for the owner names both.
CREATE TABLE relay.secrets (
    customer text COLLATE "C" NOT NULL REFERENCES relay.customers,
    id       uuid NOT NULL UNIQUE,
    version  bigint NOT NULL,
    head     bytea NOT NULL,
    sealed   bytea NOT NULL,
    tokens   bytea,
    PRIMARY KEY (customer, id)
);
-- What is sealed looks random: trying to make it smaller would be in vain.
ALTER TABLE relay.secrets
    ALTER COLUMN sealed SET STORAGE EXTERNAL,
    ALTER COLUMN tokens SET STORAGE EXTERNAL;

CREATE TABLE relay.past_versions (
    customer      text COLLATE "C" NOT NULL,
    id            uuid NOT NULL,
    version       bigint NOT NULL,
    head          bytea,
    sealed        bytea NOT NULL,
    superseded_at bigint NOT NULL,
    PRIMARY KEY (customer, id, version),
    FOREIGN KEY (customer, id) REFERENCES relay.secrets ON DELETE CASCADE
);
ALTER TABLE relay.past_versions ALTER COLUMN sealed SET STORAGE EXTERNAL;
CREATE INDEX past_versions_age ON relay.past_versions (customer, superseded_at);

-- Apart from the secrets, so that noting a use does not write them anew.
CREATE TABLE relay.uses (
    customer text COLLATE "C" NOT NULL,
    id       uuid NOT NULL,
    used_at  bigint NOT NULL,
    PRIMARY KEY (customer, id),
    FOREIGN KEY (customer, id) REFERENCES relay.secrets ON DELETE CASCADE
) WITH (fillfactor = 80);

CREATE TABLE relay.meta (
    name  bytea PRIMARY KEY,
    value bytea NOT NULL
);

CREATE TABLE relay.leases (
    name    bytea PRIMARY KEY,
    holder  uuid NOT NULL,
    ends_at timestamptz NOT NULL
) WITH (fillfactor = 50);

-- How many writes there were: the sum of what each session counted in its own row.
CREATE TABLE relay.writes (
    slot   integer PRIMARY KEY,
    writes bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 20);
INSERT INTO relay.writes (slot) SELECT generate_series(0, 31);
