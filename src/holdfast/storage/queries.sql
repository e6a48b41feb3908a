-- The named queries of the SQL storage. Each begins with `-- name:`, may go on with comments, and ends where the
-- next one begins. `{table}` is the validated prefix of the tables, `{lock}` locks the rows that are read, where that
-- is not done already; every value is bound, whole rows by position.
-- The owner is part of every WHERE but those whose name says that they span owners.


-- name: find_head
SELECT owner, session_id, incarnation, version, snapshot_version, forgotten, workflow, created_at, updated_at, lease,
       checksum
FROM {table}_session
WHERE owner = :owner AND session_id = :session_id

-- name: find_head_to_change
-- As `find_head`; until the end of the transaction nobody else can change the session.
SELECT owner, session_id, incarnation, version, snapshot_version, forgotten, workflow, created_at, updated_at, lease,
       checksum
FROM {table}_session
WHERE owner = :owner AND session_id = :session_id
{lock}

-- name: heads_of_owner
SELECT owner, session_id, incarnation, version, snapshot_version, forgotten, workflow, created_at, updated_at, lease,
       checksum
FROM {table}_session
WHERE owner = :owner AND (CAST(:session_id AS TEXT) IS NULL OR session_id = :session_id) AND version >= :least
ORDER BY updated_at DESC, session_id
LIMIT :limit

-- name: heads_of_all_owners
SELECT owner, session_id, incarnation, version, snapshot_version, forgotten, workflow, created_at, updated_at, lease,
       checksum
FROM {table}_session
WHERE (CAST(:session_id AS TEXT) IS NULL OR session_id = :session_id) AND version >= :least
ORDER BY updated_at DESC, session_id, owner
LIMIT :limit

-- name: insert_head
-- Makes a session; changes nothing if there is one, also one that another transaction makes at the same time.
INSERT INTO {table}_session
    (owner, session_id, incarnation, version, snapshot_version, forgotten, workflow, created_at, updated_at, lease,
     checksum)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (owner, session_id) DO NOTHING

-- name: put_head
INSERT INTO {table}_session
    (owner, session_id, incarnation, version, snapshot_version, forgotten, workflow, created_at, updated_at, lease,
     checksum)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (owner, session_id) DO UPDATE SET
    incarnation = excluded.incarnation,
    version = excluded.version,
    snapshot_version = excluded.snapshot_version,
    forgotten = excluded.forgotten,
    workflow = excluded.workflow,
    created_at = excluded.created_at,
    updated_at = excluded.updated_at,
    lease = excluded.lease,
    checksum = excluded.checksum

-- name: advance_head
-- Makes the next version of a session whose whole row is known; changes nothing if it is not as it is known.
UPDATE {table}_session
SET version = ?, updated_at = ?, checksum = ?
WHERE owner = ? AND session_id = ? AND incarnation = ? AND version = ? AND snapshot_version = ? AND forgotten = ?
  AND workflow = ? AND created_at = ? AND updated_at = ? AND lease = ? AND checksum = ?

-- name: delete_head
DELETE FROM {table}_session WHERE owner = :owner AND session_id = :session_id


-- name: leases
-- The queue for a session; the first in it is the holder.
SELECT ticket, lease_id, is_exclusive, expires_at, checksum
FROM {table}_lease
WHERE owner = :owner AND session_id = :session_id
ORDER BY ticket

-- name: leases_of_all_owners
SELECT owner, session_id, ticket, lease_id, is_exclusive, expires_at, checksum FROM {table}_lease

-- name: insert_lease
-- Takes a place in the queue; changes nothing if somebody else takes it at the same time.
INSERT INTO {table}_lease (owner, session_id, ticket, lease_id, is_exclusive, expires_at, checksum)
VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (owner, session_id, ticket) DO NOTHING

-- name: renew_lease
-- Keeps a place in the queue; changes nothing if it was lost.
UPDATE {table}_lease
SET is_exclusive = :is_exclusive, expires_at = :expires_at, checksum = :checksum
WHERE owner = :owner AND session_id = :session_id AND lease_id = :lease_id

-- name: delete_expired_lease
-- Takes a place from somebody who was not heard of; changes nothing if it has just been renewed.
DELETE FROM {table}_lease
WHERE owner = :owner AND session_id = :session_id AND lease_id = :lease_id AND expires_at <= :now

-- name: delete_lease
DELETE FROM {table}_lease WHERE owner = :owner AND session_id = :session_id AND lease_id = :lease_id


-- name: insert_patch
INSERT INTO {table}_patch (owner, session_id, version, commit_id, run_id, created_at, checksum, patch)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)

-- name: find_patches
-- The changes after one version and up to another, oldest first.
SELECT version, commit_id, run_id, created_at, checksum, patch
FROM {table}_patch
WHERE owner = :owner AND session_id = :session_id AND version > :after AND version <= :upto
ORDER BY version
LIMIT :limit

-- name: find_commit
-- The version that a commit made, if it was applied already.
SELECT version
FROM {table}_patch
WHERE owner = :owner AND session_id = :session_id AND version > :base AND commit_id = :commit_id

-- name: newest_version_before
-- The version that was current at a time.
SELECT MAX(version)
FROM {table}_patch
WHERE owner = :owner AND session_id = :session_id AND created_at <= :time

-- name: delete_patches
DELETE FROM {table}_patch WHERE owner = :owner AND session_id = :session_id AND version <= :upto

-- name: move_patches
UPDATE {table}_patch SET session_id = :new_id WHERE owner = :owner AND session_id = :session_id


-- name: insert_snapshot
INSERT INTO {table}_snapshot (owner, session_id, version, checksum, listing) VALUES (?, ?, ?, ?, ?)

-- name: find_snapshot
SELECT checksum FROM {table}_snapshot WHERE owner = :owner AND session_id = :session_id AND version = :version

-- name: find_listing
SELECT listing FROM {table}_snapshot WHERE owner = :owner AND session_id = :session_id AND version = :version

-- name: newest_snapshot_upto
SELECT MAX(version)
FROM {table}_snapshot
WHERE owner = :owner AND session_id = :session_id AND version <= :upto

-- name: next_snapshot
SELECT MIN(version)
FROM {table}_snapshot
WHERE owner = :owner AND session_id = :session_id AND version >= :since

-- name: snapshot_versions
SELECT version FROM {table}_snapshot WHERE owner = :owner AND session_id = :session_id ORDER BY version

-- name: delete_snapshots
DELETE FROM {table}_snapshot
WHERE owner = :owner AND session_id = :session_id AND version >= :since AND version <= :upto

-- name: move_snapshots
UPDATE {table}_snapshot SET session_id = :new_id WHERE owner = :owner AND session_id = :session_id


-- name: insert_value
INSERT INTO {table}_value (owner, session_id, version, name, data) VALUES (?, ?, ?, ?, ?)

-- name: find_value
SELECT data
FROM {table}_value
WHERE owner = :owner AND session_id = :session_id AND version = :version AND name = :name

-- name: small_values_of_version
-- The values that were stored with one snapshot, but for those that cannot be wanted with all the others.
SELECT name, data
FROM {table}_value
WHERE owner = :owner AND session_id = :session_id AND version = :version AND LENGTH(data) <= :size

-- name: value_keys
-- Which values were stored after one version and before another.
SELECT version, name
FROM {table}_value
WHERE owner = :owner AND session_id = :session_id AND version > :after AND version < :before

-- name: delete_value
DELETE FROM {table}_value WHERE owner = ? AND session_id = ? AND version = ? AND name = ?

-- name: delete_values
DELETE FROM {table}_value WHERE owner = :owner AND session_id = :session_id

-- name: move_values
UPDATE {table}_value SET session_id = :new_id WHERE owner = :owner AND session_id = :session_id


-- name: put_run
INSERT INTO {table}_run
    (owner, session_id, run_id, workflow_id, workflow, status, started_at, process_id, ended_at, requests,
     input_tokens, output_tokens, cost, base_version, refused_version, error, input, output, refused_patch,
     checksum)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (owner, session_id, run_id) DO UPDATE SET
    workflow_id = excluded.workflow_id,
    workflow = excluded.workflow,
    status = excluded.status,
    started_at = excluded.started_at,
    process_id = excluded.process_id,
    ended_at = excluded.ended_at,
    requests = excluded.requests,
    input_tokens = excluded.input_tokens,
    output_tokens = excluded.output_tokens,
    cost = excluded.cost,
    base_version = excluded.base_version,
    refused_version = excluded.refused_version,
    checksum = excluded.checksum,
    error = excluded.error,
    input = excluded.input,
    output = excluded.output,
    refused_patch = excluded.refused_patch

-- name: runs_of_session
SELECT owner, session_id, run_id, workflow_id, workflow, status, started_at, process_id, ended_at, requests,
       input_tokens, output_tokens, cost, base_version, refused_version, error, input, output, refused_patch,
       checksum
FROM {table}_run
WHERE owner = :owner AND session_id = :session_id AND (CAST(:run_id AS TEXT) IS NULL OR run_id = :run_id)
ORDER BY started_at DESC, run_id
LIMIT :limit

-- name: runs_of_owner
SELECT owner, session_id, run_id, workflow_id, workflow, status, started_at, process_id, ended_at, requests,
       input_tokens, output_tokens, cost, base_version, refused_version, error, input, output, refused_patch,
       checksum
FROM {table}_run
WHERE owner = :owner AND (CAST(:run_id AS TEXT) IS NULL OR run_id = :run_id)
ORDER BY started_at DESC, run_id
LIMIT :limit

-- name: runs_of_all_owners
SELECT owner, session_id, run_id, workflow_id, workflow, status, started_at, process_id, ended_at, requests,
       input_tokens, output_tokens, cost, base_version, refused_version, error, input, output, refused_patch,
       checksum
FROM {table}_run
WHERE (CAST(:session_id AS TEXT) IS NULL OR session_id = :session_id) AND (CAST(:run_id AS TEXT) IS NULL OR run_id = :run_id)
ORDER BY started_at DESC, run_id
LIMIT :limit

-- name: delete_runs
DELETE FROM {table}_run WHERE owner = :owner AND session_id = :session_id


-- name: rows_without_head
-- How many rows a session without a head has; no row for one with a head. In one statement, so that a session that
-- is made or deleted at the same time is seen whole or not at all.
SELECT
    (SELECT COUNT(*) FROM {table}_patch WHERE owner = :owner AND session_id = :session_id)
  + (SELECT COUNT(*) FROM {table}_snapshot WHERE owner = :owner AND session_id = :session_id)
  + (SELECT COUNT(*) FROM {table}_value WHERE owner = :owner AND session_id = :session_id)
WHERE NOT EXISTS (SELECT 1 FROM {table}_session WHERE owner = :owner AND session_id = :session_id)

-- name: put_beat
INSERT INTO holdfast_process (process_id, beat_at, checksum) VALUES (?, ?, ?)
ON CONFLICT (process_id) DO UPDATE SET beat_at = excluded.beat_at, checksum = excluded.checksum

-- name: beats
SELECT process_id, beat_at, checksum FROM holdfast_process

-- name: delete_beat
DELETE FROM holdfast_process WHERE process_id = :process_id

-- name: delete_beats_before
DELETE FROM holdfast_process WHERE beat_at < :time

-- name: migrations
SELECT table_name, number FROM holdfast_migration

-- name: add_migration
INSERT INTO holdfast_migration (table_name, number, applied_at) VALUES (:table_name, :number, :applied_at)

-- name: add_to_catalogue
INSERT INTO holdfast_catalogue (table_name, created_at) VALUES (:table_name, :created_at)

-- name: catalogue
SELECT table_name FROM holdfast_catalogue ORDER BY table_name


-- name: sessions_with_rows_of_all_owners
-- Every session that has rows besides a head.
SELECT DISTINCT owner, session_id FROM {table}_patch
UNION
SELECT DISTINCT owner, session_id FROM {table}_snapshot
UNION
SELECT DISTINCT owner, session_id FROM {table}_value
