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
WHERE owner = :owner AND version >= 1
ORDER BY updated_at DESC, session_id
LIMIT :limit

-- name: heads_of_all_owners
-- A session of which only the id is known is looked for in all rows. An index of ids would cost every new session a page.
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

-- name: patch_sizes
-- How large the changes after one version and up to another are, oldest first.
SELECT version, LENGTH(patch)
FROM {table}_patch
WHERE owner = :owner AND session_id = :session_id AND version > :after AND version <= :upto
ORDER BY version
LIMIT :limit

-- name: find_commit
-- The version that a commit made, if it was applied already.
SELECT version
FROM {table}_patch
WHERE owner = :owner AND session_id = :session_id AND version > :base AND commit_id = :commit_id

-- name: version_at
-- The version that was current at a time: the one before the first that was made later, NULL if none was. What was made
-- since, which is most of a history that is forgotten by age, is not read.
SELECT MIN(version) - 1
FROM {table}_patch
WHERE owner = :owner AND session_id = :session_id AND created_at > :time

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
-- Writes the record of a run. Over that of a later attempt it fails: it divides by nought, which PostgreSQL refuses,
-- and which is NULL in SQLite, where the column refuses it. Unlike the number of rows, an error need not be waited for.
INSERT INTO {table}_run
    (owner, session_id, run_id, workflow_id, workflow, status, started_at, process_id, ended_at, requests,
     input_tokens, output_tokens, cost, base_version, refused_version, attempt, savings, error, input, output,
     refused_patch, checksum)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
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
    attempt = excluded.attempt / (CASE WHEN {table}_run.attempt <= excluded.attempt THEN 1 ELSE 0 END),
    savings = excluded.savings,
    checksum = excluded.checksum,
    error = excluded.error,
    input = excluded.input,
    output = excluded.output,
    refused_patch = excluded.refused_patch

-- name: runs_of_session
SELECT owner, session_id, run_id, workflow_id, workflow, status, started_at, process_id, ended_at, requests,
       input_tokens, output_tokens, cost, base_version, refused_version, attempt, savings, error, input, output,
       refused_patch, checksum
FROM {table}_run
WHERE owner = :owner AND session_id = :session_id
ORDER BY started_at DESC, run_id
LIMIT :limit

-- name: find_run
SELECT owner, session_id, run_id, workflow_id, workflow, status, started_at, process_id, ended_at, requests,
       input_tokens, output_tokens, cost, base_version, refused_version, attempt, savings, error, input, output,
       refused_patch, checksum
FROM {table}_run
WHERE owner = :owner AND session_id = :session_id AND run_id = :run_id

-- name: runs_of_owner
SELECT owner, session_id, run_id, workflow_id, workflow, status, started_at, process_id, ended_at, requests,
       input_tokens, output_tokens, cost, base_version, refused_version, attempt, savings, error, input, output,
       refused_patch, checksum
FROM {table}_run
WHERE owner = :owner AND (CAST(:run_id AS TEXT) IS NULL OR run_id = :run_id)
ORDER BY started_at DESC, run_id
LIMIT :limit

-- name: runs_of_all_owners
SELECT owner, session_id, run_id, workflow_id, workflow, status, started_at, process_id, ended_at, requests,
       input_tokens, output_tokens, cost, base_version, refused_version, attempt, savings, error, input, output,
       refused_patch, checksum
FROM {table}_run
WHERE (CAST(:session_id AS TEXT) IS NULL OR session_id = :session_id) AND (CAST(:run_id AS TEXT) IS NULL OR run_id = :run_id)
ORDER BY started_at DESC, run_id
LIMIT :limit

-- name: find_run_to_change
-- One run; until the end of the transaction nobody else can change its record.
SELECT owner, session_id, run_id, workflow_id, workflow, status, started_at, process_id, ended_at, requests,
       input_tokens, output_tokens, cost, base_version, refused_version, attempt, savings, error, input, output,
       refused_patch, checksum
FROM {table}_run
WHERE owner = :owner AND session_id = :session_id AND run_id = :run_id
{lock}

-- name: attempt_to_keep
-- The attempt of a run; until the end of the transaction nobody can begin another.
SELECT attempt
FROM {table}_run
WHERE owner = :owner AND session_id = :session_id AND run_id = :run_id
{lock}

-- name: delete_runs
DELETE FROM {table}_run WHERE owner = :owner AND session_id = :session_id


-- name: put_step
INSERT INTO {table}_step
    (owner, session_id, run_id, number, name, scope, occurrence, within, is_hit, started_at, seconds, requests,
     input_tokens, output_tokens, cost, key, result_digest, checksum, parts, patch, result)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (owner, session_id, run_id, number) DO UPDATE SET
    name = excluded.name,
    scope = excluded.scope,
    occurrence = excluded.occurrence,
    within = excluded.within,
    is_hit = excluded.is_hit,
    started_at = excluded.started_at,
    seconds = excluded.seconds,
    requests = excluded.requests,
    input_tokens = excluded.input_tokens,
    output_tokens = excluded.output_tokens,
    cost = excluded.cost,
    key = excluded.key,
    result_digest = excluded.result_digest,
    checksum = excluded.checksum,
    parts = excluded.parts,
    patch = excluded.patch,
    result = excluded.result

-- name: forget_results
UPDATE {table}_step SET result = NULL
WHERE owner = ? AND session_id = ? AND run_id = ? AND result IS NOT NULL

-- name: steps_of_run
SELECT owner, session_id, run_id, number, name, scope, occurrence, within, is_hit, started_at, seconds, requests,
       input_tokens, output_tokens, cost, key, result_digest, checksum, parts, patch, NULL
FROM {table}_step
WHERE owner = :owner AND session_id = :session_id AND run_id = :run_id
ORDER BY number

-- name: steps_of_run_with_results
SELECT owner, session_id, run_id, number, name, scope, occurrence, within, is_hit, started_at, seconds, requests,
       input_tokens, output_tokens, cost, key, result_digest, checksum, parts, patch, result
FROM {table}_step
WHERE owner = :owner AND session_id = :session_id AND run_id = :run_id
ORDER BY number

-- name: steps_of_session
SELECT owner, session_id, run_id, number, name, scope, occurrence, within, is_hit, started_at, seconds, requests,
       input_tokens, output_tokens, cost, key, result_digest, checksum, parts, patch, NULL
FROM {table}_step
WHERE owner = :owner AND session_id = :session_id

-- name: steps_of_all_owners
SELECT owner, session_id, run_id, number, name, scope, occurrence, within, is_hit, started_at, seconds, requests,
       input_tokens, output_tokens, cost, key, result_digest, checksum, parts, patch, NULL
FROM {table}_step
ORDER BY owner, session_id, run_id, number

-- name: find_step_result
SELECT result
FROM {table}_step
WHERE owner = :owner AND session_id = :session_id AND run_id = :run_id AND number = :number

-- name: move_step
UPDATE {table}_step SET session_id = ?, checksum = ?
WHERE owner = ? AND session_id = ? AND run_id = ? AND number = ?

-- name: delete_steps
DELETE FROM {table}_step WHERE owner = :owner AND session_id = :session_id


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


-- What `check` reads, of which a part at a time is in memory.

-- name: each_head_of_all_owners
SELECT owner, session_id, incarnation, version, snapshot_version, forgotten, workflow, created_at, updated_at, lease,
       checksum
FROM {table}_session
ORDER BY owner, session_id

-- name: each_run_of_all_owners
SELECT owner, session_id, run_id, workflow_id, workflow, status, started_at, process_id, ended_at, requests,
       input_tokens, output_tokens, cost, base_version, refused_version, attempt, savings, error, input, output,
       refused_patch, checksum
FROM {table}_run
ORDER BY owner, session_id, run_id

-- name: sessions_without_head_of_all_owners
-- Every session that has rows, but no head.
SELECT owner, session_id
FROM (
    SELECT owner, session_id FROM {table}_patch
    UNION
    SELECT owner, session_id FROM {table}_snapshot
    UNION
    SELECT owner, session_id FROM {table}_value
) AS stored
WHERE NOT EXISTS (
    SELECT 1 FROM {table}_session WHERE owner = stored.owner AND session_id = stored.session_id)

-- name: steps_without_run_of_all_owners
SELECT owner, session_id, run_id
FROM {table}_step AS step
WHERE NOT EXISTS (
    SELECT 1 FROM {table}_run WHERE owner = step.owner AND session_id = step.session_id AND run_id = step.run_id)


-- The step cache: one table for the database. A row without a value, which is there because somebody computes it, has
-- no checksum, and expired at 0. `table_name` is the prefix of the session that a row is for, empty for wider scopes.

-- name: find_entry
SELECT owner, table_name, session_id, key, scope, is_shared, workflow, step, run_id, seconds, requests, input_tokens,
       output_tokens, cost, created_at, expires_at, size, result_digest, checksum, parts, hits, used_at, result
FROM holdfast_step_entry
WHERE owner = ? AND table_name = ? AND session_id = ? AND key = ? AND checksum IS NOT NULL

-- name: find_checksum
-- What changes whenever anything of an entry does.
SELECT checksum, hits, used_at
FROM holdfast_step_entry
WHERE owner = ? AND table_name = ? AND session_id = ? AND key = ? AND checksum IS NOT NULL

-- name: entries_of_owner
SELECT owner, table_name, session_id, key, scope, is_shared, workflow, step, run_id, seconds, requests, input_tokens,
       output_tokens, cost, created_at, expires_at, size, result_digest, checksum, parts, hits, used_at, NULL
FROM holdfast_step_entry
WHERE owner = :owner AND table_name IN ('', :table_name) AND checksum IS NOT NULL
  AND (CAST(:step AS TEXT) IS NULL OR step = :step) AND (CAST(:workflow AS TEXT) IS NULL OR workflow = :workflow)
  AND (CAST(:session_id AS TEXT) IS NULL OR session_id = :session_id)
ORDER BY created_at DESC, key
LIMIT :limit

-- name: entries_of_all_owners
SELECT owner, table_name, session_id, key, scope, is_shared, workflow, step, run_id, seconds, requests, input_tokens,
       output_tokens, cost, created_at, expires_at, size, result_digest, checksum, parts, hits, used_at, NULL
FROM holdfast_step_entry
WHERE (CAST(:table_name AS TEXT) IS NULL OR table_name IN ('', :table_name)) AND checksum IS NOT NULL
  AND (CAST(:step AS TEXT) IS NULL OR step = :step) AND (CAST(:workflow AS TEXT) IS NULL OR workflow = :workflow)
  AND (CAST(:session_id AS TEXT) IS NULL OR session_id = :session_id)
ORDER BY created_at DESC, key, owner
LIMIT :limit

-- name: claim_entry
-- Gives an entry to somebody to compute; changes nothing while somebody else has it, or if it need not be computed.
INSERT INTO holdfast_step_entry
    (owner, table_name, session_id, key, lease_id, lease_until, used_at, hits, expires_at, size)
VALUES (:owner, :table_name, :session_id, :key, :lease_id, :lease_until, 0, 0, 0, 0)
ON CONFLICT (owner, table_name, session_id, key) DO UPDATE SET
    lease_id = excluded.lease_id,
    lease_until = excluded.lease_until
WHERE (holdfast_step_entry.lease_id = excluded.lease_id OR holdfast_step_entry.lease_until <= :now)
  AND (holdfast_step_entry.checksum IS NULL OR holdfast_step_entry.expires_at <= :now
       OR CAST(:unless AS DOUBLE PRECISION) IS NULL OR holdfast_step_entry.created_at <= :unless)

-- name: renew_entry
UPDATE holdfast_step_entry SET lease_until = :lease_until
WHERE owner = :owner AND table_name = :table_name AND session_id = :session_id AND key = :key AND lease_id = :lease_id

-- name: store_entry
-- Stores a value, and ends the lease under which it was computed; changes nothing if that was lost.
UPDATE holdfast_step_entry
SET lease_id = '', lease_until = 0, hits = 0, used_at = ?, scope = ?, is_shared = ?, workflow = ?, step = ?,
    run_id = ?, seconds = ?, requests = ?, input_tokens = ?, output_tokens = ?, cost = ?, created_at = ?,
    expires_at = ?, size = ?, result_digest = ?, checksum = ?, parts = ?, result = ?
WHERE owner = ? AND table_name = ? AND session_id = ? AND key = ? AND lease_id = ?

-- name: give_up_claim
DELETE FROM holdfast_step_entry
WHERE owner = :owner AND table_name = :table_name AND session_id = :session_id AND key = :key AND lease_id = :lease_id
  AND checksum IS NULL

-- name: release_entry
UPDATE holdfast_step_entry SET lease_id = '', lease_until = 0
WHERE owner = :owner AND table_name = :table_name AND session_id = :session_id AND key = :key AND lease_id = :lease_id

-- name: count_hits
UPDATE holdfast_step_entry
SET hits = hits + ?, used_at = ?
WHERE owner = ? AND table_name = ? AND session_id = ? AND key = ? AND checksum IS NOT NULL

-- name: delete_entry
-- Deletes a value that nobody is computing anew.
DELETE FROM holdfast_step_entry
WHERE owner = :owner AND table_name = :table_name AND session_id = :session_id AND key = :key
  AND checksum IS NOT NULL AND lease_until <= :now

-- name: empty_entry
-- Takes the value from a row, and leaves it to whoever computes that anew.
UPDATE holdfast_step_entry
SET used_at = 0, hits = 0, scope = NULL, is_shared = NULL, workflow = NULL, step = NULL, run_id = NULL,
    seconds = NULL, requests = NULL, input_tokens = NULL, output_tokens = NULL, cost = NULL, created_at = NULL,
    expires_at = 0, size = 0, result_digest = NULL, checksum = NULL, parts = NULL, result = NULL
WHERE owner = :owner AND table_name = :table_name AND session_id = :session_id AND key = :key
  AND checksum IS NOT NULL

-- name: delete_entries_of_session
DELETE FROM holdfast_step_entry WHERE owner = :owner AND table_name = :table_name AND session_id = :session_id

-- name: delete_expired_of_all_owners
-- The condition is there twice, for a row can be claimed after it was selected.
DELETE FROM holdfast_step_entry
WHERE expires_at <= :now AND lease_until <= :now AND checksum IS NOT NULL
  AND (owner, table_name, session_id, key) IN (
    SELECT owner, table_name, session_id, key
    FROM holdfast_step_entry
    WHERE expires_at <= :now AND lease_until <= :now AND checksum IS NOT NULL
    LIMIT :limit)

-- name: delete_dead_claims_of_all_owners
DELETE FROM holdfast_step_entry
WHERE expires_at <= 0 AND lease_until <= :now AND checksum IS NULL
  AND (owner, table_name, session_id, key) IN (
    SELECT owner, table_name, session_id, key
    FROM holdfast_step_entry
    WHERE expires_at <= 0 AND lease_until <= :now AND checksum IS NULL
    LIMIT :limit)

-- name: size_of_all_owners
SELECT CAST(COALESCE(SUM(size), 0) AS BIGINT) FROM holdfast_step_entry

-- name: longest_unused_of_all_owners
SELECT size
FROM holdfast_step_entry
WHERE lease_until <= :now AND checksum IS NOT NULL
ORDER BY used_at, size
LIMIT :limit

-- name: delete_longest_unused_of_all_owners
DELETE FROM holdfast_step_entry
WHERE lease_until <= :now AND checksum IS NOT NULL
  AND (owner, table_name, session_id, key) IN (
    SELECT owner, table_name, session_id, key
    FROM holdfast_step_entry
    WHERE lease_until <= :now AND checksum IS NOT NULL
    ORDER BY used_at, size
    LIMIT :limit)
