-- The first schema of uploads.
--
-- Times are those of the media service's clock, in Unix milliseconds. Rows that change with every batch of parts leave room in their pages, so that the new
-- version of a row stands beside the old one and no index is touched.

-- What each user has. Whoever begins, ends or removes an upload holds the row to the end, so that the counts are exact.
CREATE TABLE media_owners (
    user_id text COLLATE "C" PRIMARY KEY,
    -- Uploads that are not complete.
    open bigint NOT NULL,
    -- Of all that have not failed, those that are declared included.
    bytes bigint NOT NULL
) WITH (fillfactor = 50);

CREATE TABLE media_uploads (
    -- The 16 bytes of its id.
    id bytea PRIMARY KEY,
    user_id text COLLATE "C" NOT NULL,
    bytes bigint NOT NULL,
    sha256 bytea NOT NULL,
    -- A media type.
    kind text COLLATE "C" NOT NULL,
    part_bytes integer NOT NULL,
    -- Parts that are not there, while it is open. Whoever stores parts holds the row to the end.
    missing integer NOT NULL,
    -- When it has outlived its time; 0 once it is fenced.
    due_ms bigint NOT NULL,
    -- Whether it is found by what was declared.
    named boolean NOT NULL,
    -- As protobuf, once it is complete.
    media bytea,
    thumbnail bytea,
    -- All of its bytes, if they are few.
    content bytea,
    -- The code, once it is refused for ever.
    failed integer
) WITH (fillfactor = 70);

CREATE UNIQUE INDEX media_uploads_by_name ON media_uploads (user_id, sha256, bytes, kind) WHERE named;
CREATE INDEX media_uploads_by_due ON media_uploads (due_ms, id);

-- The parts of open uploads.
CREATE TABLE media_parts (
    upload bytea NOT NULL,
    index integer NOT NULL,
    bytes bytea NOT NULL,
    PRIMARY KEY (upload, index)
);

-- Images are compressed already.
ALTER TABLE media_uploads ALTER COLUMN thumbnail SET STORAGE EXTERNAL;
ALTER TABLE media_uploads ALTER COLUMN content SET STORAGE EXTERNAL;
ALTER TABLE media_parts ALTER COLUMN bytes SET STORAGE EXTERNAL;
