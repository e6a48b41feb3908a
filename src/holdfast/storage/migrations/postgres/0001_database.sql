-- What belongs to the database as a whole: which table prefixes it has, which processes live, and results of steps
-- that are kept for later runs. Blobs stand last, so that a row's other columns are read without them.

CREATE TABLE holdfast_catalogue (
    table_name TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    created_at DOUBLE PRECISION NOT NULL
);

CREATE TABLE holdfast_process (
    process_id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    beat_at DOUBLE PRECISION NOT NULL,
    checksum BYTEA NOT NULL
);

CREATE TABLE holdfast_step_entry (
    owner TEXT COLLATE "C" NOT NULL,
    table_name TEXT COLLATE "C" NOT NULL,
    session_id TEXT COLLATE "C" NOT NULL,
    key BYTEA NOT NULL,
    lease_id TEXT COLLATE "C" NOT NULL,
    lease_until DOUBLE PRECISION NOT NULL,
    used_at DOUBLE PRECISION NOT NULL,
    hits BIGINT NOT NULL,
    scope TEXT COLLATE "C",
    is_shared BIGINT,
    workflow TEXT COLLATE "C",
    step TEXT COLLATE "C",
    run_id TEXT COLLATE "C",
    seconds DOUBLE PRECISION,
    requests BIGINT,
    input_tokens BIGINT,
    output_tokens BIGINT,
    cost DOUBLE PRECISION,
    created_at DOUBLE PRECISION,
    expires_at DOUBLE PRECISION,
    size BIGINT NOT NULL,
    result_digest BYTEA,
    checksum BYTEA,
    parts BYTEA,
    result BYTEA,
    PRIMARY KEY (owner, table_name, session_id, key)
);

CREATE INDEX holdfast_step_entry_use ON holdfast_step_entry (used_at, size);

CREATE INDEX holdfast_step_entry_expiry ON holdfast_step_entry (expires_at) WHERE expires_at IS NOT NULL;
