-- What belongs to the database as a whole: which table prefixes it has and which processes live.

CREATE TABLE holdfast_catalogue (
    table_name TEXT NOT NULL PRIMARY KEY,
    created_at REAL NOT NULL
);

CREATE TABLE holdfast_process (
    process_id TEXT NOT NULL PRIMARY KEY,
    beat_at REAL NOT NULL,
    checksum BLOB NOT NULL
);
