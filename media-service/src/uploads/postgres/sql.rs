//! Every statement that runs more than once, prepared when a connection is made.
//!
//! Locks are taken in one order: uploads, by their ids, then the row of an owner. Parts stand under the lock of their upload. So transactions wait for each other,
//! and never in a circle.

/// What [`super::row::Row`] is read from, with which parts are there, the thumbnail and the content as they are asked for.
macro_rules! upload {
    ($parts:literal, $thumbnail:literal, $content:literal) => {
        concat!(
            "SELECT u.id, u.user_id, u.bytes, u.sha256, u.kind, u.part_bytes, u.missing, u.due_ms, u.media, u.failed, ",
            $thumbnail,
            " AS thumbnail, ",
            $content,
            " AS content, ",
            $parts,
            " AS parts FROM media_uploads u "
        )
    };
}

/// All of it. Which parts are there is looked up where it is not all of them.
macro_rules! whole_upload {
    () => {
        upload!(
            "CASE WHEN u.media IS NULL AND u.failed IS NULL AND u.missing > 0
            THEN (SELECT array_agg(p.index) FROM media_parts p WHERE p.upload = u.id) END",
            "u.thumbnail",
            "u.content"
        )
    };
}

tern_postgres::statements! {
    upload: concat!(whole_upload!(), "WHERE u.id = $1::bytea");
    uploads: concat!(whole_upload!(), "WHERE u.id = ANY($1::bytea[]) ORDER BY u.due_ms, u.id");
    /// By owner, digest, bytes, kind.
    named: concat!(
        whole_upload!(),
        "WHERE u.user_id = $1::text AND u.sha256 = $2::bytea AND u.bytes = $3::int8 AND u.kind = $4::text AND u.named"
    );
    /// Locks the uploads of a batch of parts.
    lock_uploads: concat!(
        upload!("NULL::int4[]", "NULL::bytea", "NULL::bytea"),
        "WHERE u.id = ANY($1::bytea[]) ORDER BY u.id FOR UPDATE"
    );
    /// Locks one upload.
    lock_upload: concat!(upload!("NULL::int4[]", "u.thumbnail", "u.content"), "WHERE u.id = $1::bytea FOR UPDATE");
    /// Locks what has the name: owner, digest, bytes, kind.
    lock_named: concat!(
        whole_upload!(),
        "WHERE u.user_id = $1::text AND u.sha256 = $2::bytea AND u.bytes = $3::int8 AND u.kind = $4::text AND u.named
        FOR UPDATE OF u"
    );
    /// Locks a user, made if it is not there. Tells what it has.
    lock_owner: "
        INSERT INTO media_owners AS o (user_id, open, bytes) VALUES ($1::text, 0, 0)
        ON CONFLICT (user_id) DO UPDATE SET open = o.open RETURNING open, bytes";
    /// A user, and by how much its open uploads and its bytes change.
    count: "UPDATE media_owners SET open = open + $2::int8, bytes = bytes + $3::int8 WHERE user_id = $1::text";
    /// A user who has nothing needs no row.
    forget_owner: "DELETE FROM media_owners WHERE user_id = $1::text AND open = 0 AND bytes = 0";

    /// That another has begun under the same name meanwhile is found here, by the index of names.
    insert_upload: "
        INSERT INTO media_uploads (id, user_id, bytes, sha256, kind, part_bytes, missing, due_ms, named)
        VALUES ($1::bytea, $2::text, $3::int8, $4::bytea, $5::text, $6::int4, $7::int4, $8::int8, true)";
    forget_name: "UPDATE media_uploads SET named = false WHERE id = $1::bytea";
    /// What became of it: media, thumbnail and content, or a code. What failed loses its name.
    end_upload: "
        UPDATE media_uploads SET media = $2::bytea, thumbnail = $3::bytea, content = $4::bytea, failed = $5::int4,
            due_ms = $6::int8, named = named AND $5 IS NULL
        WHERE id = $1::bytea";
    delete_upload: "DELETE FROM media_uploads WHERE id = $1::bytea";
    /// Keeps what is complete at least until then, unless it is fenced.
    renew: "
        UPDATE media_uploads SET due_ms = GREATEST(due_ms, $2::int8)
        WHERE id = $1::bytea AND media IS NOT NULL AND due_ms <> 0";
    keep: "UPDATE media_uploads SET due_ms = $2::int8 WHERE id = $1::bytea";
    /// What has outlived its time, the fenced ones first: until when, at most how many.
    lapsed: "SELECT id, due_ms FROM media_uploads WHERE due_ms <= $1::int8 ORDER BY due_ms, id LIMIT $2::int8";
    /// Fences those of them that were not renewed meanwhile.
    fence: "
        UPDATE media_uploads u SET due_ms = 0
        FROM (
            SELECT l.id FROM media_uploads l WHERE l.id = ANY($1::bytea[]) AND l.due_ms <= $2::int8
            ORDER BY l.id FOR UPDATE
        ) due WHERE u.id = due.id";

    /// Tells which were not there. Their uploads are locked.
    insert_parts: "
        INSERT INTO media_parts (upload, index, bytes)
        SELECT * FROM unnest($1::bytea[], $2::int4[], $3::bytea[])
        ON CONFLICT (upload, index) DO NOTHING RETURNING upload, index";
    parts: "
        SELECT p.upload, p.index, p.bytes
        FROM unnest($1::bytea[], $2::int4[]) AS a (upload, index)
        JOIN media_parts p ON p.upload = a.upload AND p.index = a.index";
    /// So many parts of each are there now that were not.
    count_parts: "
        UPDATE media_uploads u SET missing = u.missing - a.stored
        FROM unnest($1::bytea[], $2::int4[]) AS a (id, stored) WHERE u.id = a.id";
    /// From which index on, and up to which.
    read_parts: "
        SELECT index, bytes FROM media_parts WHERE upload = $1::bytea AND index >= $2::int4 AND index < $3::int4
        ORDER BY index";
    delete_parts: "DELETE FROM media_parts WHERE upload = $1::bytea";
}
