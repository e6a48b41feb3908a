-- The sessions of one table prefix. Blobs stand last, so that a row's other columns are read without them.

CREATE TABLE {table}_session (
    owner TEXT COLLATE "C" NOT NULL,
    session_id TEXT COLLATE "C" NOT NULL,
    incarnation TEXT COLLATE "C" NOT NULL,
    version BIGINT NOT NULL,
    snapshot_version BIGINT NOT NULL,
    forgotten BIGINT NOT NULL,
    workflow TEXT COLLATE "C" NOT NULL,
    created_at DOUBLE PRECISION NOT NULL,
    updated_at DOUBLE PRECISION NOT NULL,
    lease TEXT COLLATE "C" NOT NULL,
    checksum BYTEA NOT NULL,
    PRIMARY KEY (owner, session_id)
);

CREATE TABLE {table}_lease (
    owner TEXT COLLATE "C" NOT NULL,
    session_id TEXT COLLATE "C" NOT NULL,
    ticket BIGINT NOT NULL,
    lease_id TEXT COLLATE "C" NOT NULL,
    is_exclusive BIGINT NOT NULL,
    expires_at DOUBLE PRECISION NOT NULL,
    checksum BYTEA NOT NULL,
    PRIMARY KEY (owner, session_id, ticket)
);

CREATE TABLE {table}_patch (
    owner TEXT COLLATE "C" NOT NULL,
    session_id TEXT COLLATE "C" NOT NULL,
    version BIGINT NOT NULL,
    commit_id TEXT COLLATE "C" NOT NULL,
    run_id TEXT COLLATE "C" NOT NULL,
    created_at DOUBLE PRECISION NOT NULL,
    checksum BYTEA NOT NULL,
    patch BYTEA NOT NULL,
    PRIMARY KEY (owner, session_id, version)
);

CREATE TABLE {table}_snapshot (
    owner TEXT COLLATE "C" NOT NULL,
    session_id TEXT COLLATE "C" NOT NULL,
    version BIGINT NOT NULL,
    checksum BYTEA NOT NULL,
    listing BYTEA NOT NULL,
    PRIMARY KEY (owner, session_id, version)
);

CREATE TABLE {table}_value (
    owner TEXT COLLATE "C" NOT NULL,
    session_id TEXT COLLATE "C" NOT NULL,
    version BIGINT NOT NULL,
    name BYTEA NOT NULL,
    data BYTEA NOT NULL,
    PRIMARY KEY (owner, session_id, version, name)
);

CREATE TABLE {table}_run (
    owner TEXT COLLATE "C" NOT NULL,
    session_id TEXT COLLATE "C" NOT NULL,
    run_id TEXT COLLATE "C" NOT NULL,
    workflow_id TEXT COLLATE "C" NOT NULL,
    workflow TEXT COLLATE "C" NOT NULL,
    status TEXT COLLATE "C" NOT NULL,
    started_at DOUBLE PRECISION NOT NULL,
    process_id TEXT COLLATE "C" NOT NULL,
    ended_at DOUBLE PRECISION,
    requests BIGINT NOT NULL,
    input_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    cost DOUBLE PRECISION,
    base_version BIGINT NOT NULL,
    refused_version BIGINT,
    attempt BIGINT NOT NULL,
    savings TEXT COLLATE "C",
    checksum BYTEA NOT NULL,
    error TEXT COLLATE "C",
    input BYTEA,
    output BYTEA,
    refused_patch BYTEA,
    PRIMARY KEY (owner, session_id, run_id)
);

CREATE TABLE {table}_step (
    owner TEXT COLLATE "C" NOT NULL,
    session_id TEXT COLLATE "C" NOT NULL,
    run_id TEXT COLLATE "C" NOT NULL,
    number BIGINT NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    scope TEXT COLLATE "C" NOT NULL,
    occurrence BIGINT NOT NULL,
    within BIGINT NOT NULL,
    is_hit BIGINT NOT NULL,
    started_at DOUBLE PRECISION NOT NULL,
    seconds DOUBLE PRECISION NOT NULL,
    requests BIGINT NOT NULL,
    input_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    cost DOUBLE PRECISION,
    key BYTEA NOT NULL,
    result_digest BYTEA NOT NULL,
    checksum BYTEA NOT NULL,
    parts BYTEA NOT NULL,
    patch BYTEA,
    result BYTEA,
    PRIMARY KEY (owner, session_id, run_id, number)
);
