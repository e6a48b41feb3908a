-- The sessions of one table prefix. Blobs stand last, so that a row's other columns are read without them.

CREATE TABLE {table}_session (
    owner TEXT NOT NULL,
    session_id TEXT NOT NULL,
    incarnation TEXT NOT NULL,
    version INTEGER NOT NULL,
    snapshot_version INTEGER NOT NULL,
    forgotten INTEGER NOT NULL,
    workflow TEXT NOT NULL,
    created_at REAL NOT NULL,
    updated_at REAL NOT NULL,
    lease TEXT NOT NULL,
    checksum BLOB NOT NULL,
    PRIMARY KEY (owner, session_id)
);

CREATE TABLE {table}_lease (
    owner TEXT NOT NULL,
    session_id TEXT NOT NULL,
    ticket INTEGER NOT NULL,
    lease_id TEXT NOT NULL,
    is_exclusive INTEGER NOT NULL,
    expires_at REAL NOT NULL,
    checksum BLOB NOT NULL,
    PRIMARY KEY (owner, session_id, ticket)
);

CREATE TABLE {table}_patch (
    owner TEXT NOT NULL,
    session_id TEXT NOT NULL,
    version INTEGER NOT NULL,
    commit_id TEXT NOT NULL,
    run_id TEXT NOT NULL,
    created_at REAL NOT NULL,
    checksum BLOB NOT NULL,
    patch BLOB NOT NULL,
    PRIMARY KEY (owner, session_id, version)
);

CREATE TABLE {table}_snapshot (
    owner TEXT NOT NULL,
    session_id TEXT NOT NULL,
    version INTEGER NOT NULL,
    checksum BLOB NOT NULL,
    listing BLOB NOT NULL,
    PRIMARY KEY (owner, session_id, version)
);

CREATE TABLE {table}_value (
    owner TEXT NOT NULL,
    session_id TEXT NOT NULL,
    version INTEGER NOT NULL,
    name BLOB NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (owner, session_id, version, name)
);

CREATE TABLE {table}_run (
    owner TEXT NOT NULL,
    session_id TEXT NOT NULL,
    run_id TEXT NOT NULL,
    workflow_id TEXT NOT NULL,
    workflow TEXT NOT NULL,
    status TEXT NOT NULL,
    started_at REAL NOT NULL,
    process_id TEXT NOT NULL,
    ended_at REAL,
    requests INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    cost REAL,
    base_version INTEGER NOT NULL,
    refused_version INTEGER,
    attempt INTEGER NOT NULL,
    savings TEXT,
    checksum BLOB NOT NULL,
    error TEXT,
    input BLOB,
    output BLOB,
    refused_patch BLOB,
    PRIMARY KEY (owner, session_id, run_id)
);

CREATE TABLE {table}_step (
    owner TEXT NOT NULL,
    session_id TEXT NOT NULL,
    run_id TEXT NOT NULL,
    number INTEGER NOT NULL,
    name TEXT NOT NULL,
    scope TEXT NOT NULL,
    occurrence INTEGER NOT NULL,
    within INTEGER NOT NULL,
    is_hit INTEGER NOT NULL,
    started_at REAL NOT NULL,
    seconds REAL NOT NULL,
    requests INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    cost REAL,
    key BLOB NOT NULL,
    result_digest BLOB NOT NULL,
    checksum BLOB NOT NULL,
    parts BLOB NOT NULL,
    patch BLOB,
    result BLOB,
    PRIMARY KEY (owner, session_id, run_id, number)
);
