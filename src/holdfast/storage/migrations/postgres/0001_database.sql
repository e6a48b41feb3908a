-- What belongs to the database as a whole: which table prefixes it has and which processes live.

CREATE TABLE holdfast_catalogue (
    table_name TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    created_at DOUBLE PRECISION NOT NULL
);

CREATE TABLE holdfast_process (
    process_id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    beat_at DOUBLE PRECISION NOT NULL,
    checksum BYTEA NOT NULL
);
