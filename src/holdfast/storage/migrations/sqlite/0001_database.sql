-- What belongs to the database as a whole: which table prefixes it has, which processes live, and results of steps
-- that are kept for later runs. Blobs stand last, so that a row's other columns are read without them.

CREATE TABLE holdfast_catalogue (
    table_name TEXT NOT NULL PRIMARY KEY,
    created_at REAL NOT NULL
);

CREATE TABLE holdfast_process (
    process_id TEXT NOT NULL PRIMARY KEY,
    beat_at REAL NOT NULL,
    checksum BLOB NOT NULL
);

CREATE TABLE holdfast_step_entry (
    owner TEXT NOT NULL,
    table_name TEXT NOT NULL,
    session_id TEXT NOT NULL,
    key BLOB NOT NULL,
    lease_id TEXT NOT NULL,
    lease_until REAL NOT NULL,
    used_at REAL NOT NULL,
    hits INTEGER NOT NULL,
    scope TEXT,
    is_shared INTEGER,
    workflow TEXT,
    step TEXT,
    run_id TEXT,
    seconds REAL,
    requests INTEGER,
    input_tokens INTEGER,
    output_tokens INTEGER,
    cost REAL,
    created_at REAL,
    expires_at REAL,
    size INTEGER NOT NULL,
    result_digest BLOB,
    checksum BLOB,
    parts BLOB,
    result BLOB,
    PRIMARY KEY (owner, table_name, session_id, key)
);

CREATE INDEX holdfast_step_entry_use ON holdfast_step_entry (used_at, size);

CREATE INDEX holdfast_step_entry_expiry ON holdfast_step_entry (expires_at) WHERE expires_at IS NOT NULL;
