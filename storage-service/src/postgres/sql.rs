//! Every statement that runs more than once, prepared when a connection is made.
//!
//! Each carries a whole batch in arrays. Whatever locks more than one row does so in the order of its key; the order of the tables is `senders`,
//! `cursors`, `conversations`, `heads`. So transactions wait for each other, and never in a circle.

tern_postgres::statements! {
    /// Locks the senders and raises the highest id: users, devices, highest id. Tells the floor, and the highest id before.
    lock_senders: "
        INSERT INTO senders AS s (user_id, device_id, floor, highest, highest_before)
        SELECT user_id, device_id, $4, highest, $4
        FROM unnest($1::text[], $2::text[], $3::int8[]) AS a (user_id, device_id, highest)
        ORDER BY user_id COLLATE \"C\", device_id COLLATE \"C\"
        ON CONFLICT (user_id, device_id) DO UPDATE
        SET highest_before = s.highest, highest = GREATEST(s.highest, excluded.highest)
        RETURNING user_id, device_id, floor, highest_before";
    /// Results that are remembered: users, devices, ids. Tells the place of each in the arrays.
    results: "
        SELECT a.i, m.hash, m.server_msg_id, m.conversation, m.seq, m.time_ms, NULL::int4 AS code
        FROM unnest($1::text[], $2::text[], $3::int8[]) WITH ORDINALITY AS a (user_id, device_id, id, i)
        JOIN messages m ON m.user_id = a.user_id AND m.device_id = a.device_id AND m.client_msg_id = a.id
        UNION ALL
        SELECT a.i, r.hash, NULL, NULL, NULL, NULL, r.code
        FROM unnest($1::text[], $2::text[], $3::int8[]) WITH ORDINALITY AS a (user_id, device_id, id, i)
        JOIN refusals r ON r.user_id = a.user_id AND r.device_id = a.device_id AND r.client_msg_id = a.id";
    /// Locks all cursors of these users.
    lock_cursors: "
        SELECT user_id, device_id, acked_messages, acked_receipts, derived, heard_ms
        FROM cursors WHERE user_id = ANY($1::text[]) ORDER BY user_id, device_id FOR UPDATE";
    /// The heads of these users, not locked.
    heads: "SELECT user_id, class, head, foreign_head FROM heads WHERE user_id = ANY($1::text[])";
    /// Locks conversations of two and gives each its next positions: names, how many, times. Makes those that get any. Whether one exists is looked up only where
    /// that decides.
    lock_pairs: "
        INSERT INTO conversations AS c (id, seq, time_ms)
        SELECT a.id, a.seq, a.time_ms
        FROM unnest($1::text[], $2::int8[], $3::int8[]) AS a (id, seq, time_ms)
        WHERE a.seq > 0 OR (SELECT x.seq FROM conversations x WHERE x.id = a.id) IS NOT NULL
        ORDER BY a.id COLLATE \"C\"
        ON CONFLICT (id) DO UPDATE
        SET seq = c.seq + excluded.seq,
            time_ms = CASE WHEN excluded.seq > 0 THEN excluded.time_ms ELSE c.time_ms END
        RETURNING id, seq, time_ms";
    /// Locks groups. They come behind the conversations of two.
    lock_groups: "
        SELECT id, seq, time_ms, title, owner FROM conversations WHERE id = ANY($1::text[]) ORDER BY id FOR UPDATE";
    /// Who is in these conversations, in the order in which they joined.
    members: "
        SELECT conversation, user_id, joined, last_sent, delivered, read
        FROM members WHERE conversation = ANY($1::text[]) ORDER BY conversation, joined, place";
    /// Locks heads and gives each timeline its next versions: users, classes, how many, their bytes, which of them is the last of somebody else.
    raise_heads: "
        INSERT INTO heads AS h (user_id, class, head, entries, bytes, foreign_head)
        SELECT user_id, class, n, CASE class WHEN 1 THEN n ELSE 0 END, bytes, foreign_n
        FROM unnest($1::text[], $2::int2[], $3::int8[], $4::int8[], $5::int8[])
            AS a (user_id, class, n, bytes, foreign_n)
        ORDER BY user_id COLLATE \"C\", class
        ON CONFLICT (user_id, class) DO UPDATE
        SET head = h.head + excluded.head,
            entries = h.entries + excluded.entries,
            bytes = h.bytes + excluded.bytes,
            foreign_head = CASE WHEN excluded.foreign_head > 0 THEN h.head + excluded.foreign_head ELSE h.foreign_head END
        RETURNING user_id, class, head";
    insert_messages: "
        INSERT INTO messages (conversation, seq, server_msg_id, user_id, device_id, client_msg_id, time_ms, hash, refs, body, change, media)
        SELECT * FROM unnest($1::text[], $2::int8[], $3::int8[], $4::text[], $5::text[], $6::int8[], $7::int8[], $8::int8[],
            $9::int2[], $10::bytea[], $11::bytea[], $12::bytea[])";
    /// Media, conversations, the newest message of each that refers to it. The rows of a conversation are changed under its lock.
    upsert_references: "
        INSERT INTO media_references AS r (media, conversation, seq)
        SELECT * FROM unnest($1::bytea[], $2::text[], $3::int8[])
        ON CONFLICT (media, conversation) DO UPDATE SET seq = excluded.seq";
    insert_refusals: "
        INSERT INTO refusals (user_id, device_id, client_msg_id, time_ms, hash, code)
        SELECT * FROM unnest($1::text[], $2::text[], $3::int8[], $4::int8[], $5::int8[], $6::int4[])";
    insert_timeline: "
        INSERT INTO timeline (user_id, version, conversation, seq, bytes)
        SELECT * FROM unnest($1::text[], $2::int8[], $3::text[], $4::int8[], $5::int4[])";
    /// The newer receipt takes the place of the older.
    upsert_receipts: "
        INSERT INTO receipts AS r (user_id, conversation, member, kind, version, seq, time_ms)
        SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::int2[], $5::int8[], $6::int8[], $7::int8[])
        ON CONFLICT (user_id, conversation, member, kind) DO UPDATE
        SET version = excluded.version, seq = excluded.seq, time_ms = excluded.time_ms";
    upsert_groups: "
        INSERT INTO conversations AS c (id, seq, time_ms, title, owner)
        SELECT * FROM unnest($1::text[], $2::int8[], $3::int8[], $4::bytea[], $5::text[])
        ON CONFLICT (id) DO UPDATE
        SET seq = excluded.seq, time_ms = excluded.time_ms, title = excluded.title, owner = excluded.owner";
    delete_members: "
        DELETE FROM members m USING unnest($1::text[], $2::text[]) AS a (conversation, user_id)
        WHERE m.conversation = a.conversation AND m.user_id = a.user_id";
    insert_members: "
        INSERT INTO members (conversation, user_id, joined, place, last_sent, delivered, read)
        SELECT * FROM unnest($1::text[], $2::text[], $3::int8[], $4::int2[], $5::int8[], $6::int8[], $7::int8[])
        ON CONFLICT (conversation, user_id) DO NOTHING";
    /// Positions of members, which only rise.
    raise_members: "
        UPDATE members m
        SET last_sent = GREATEST(m.last_sent, a.last_sent), delivered = GREATEST(m.delivered, a.delivered),
            read = GREATEST(m.read, a.read)
        FROM unnest($1::text[], $2::text[], $3::int8[], $4::int8[], $5::int8[])
            AS a (conversation, user_id, last_sent, delivered, read)
        WHERE m.conversation = a.conversation AND m.user_id = a.user_id";
    upsert_cursors: "
        INSERT INTO cursors AS c (user_id, device_id, acked_messages, acked_receipts, derived, heard_ms)
        SELECT * FROM unnest($1::text[], $2::text[], $3::int8[], $4::int8[], $5::int8[], $6::int8[])
        ON CONFLICT (user_id, device_id) DO UPDATE
        SET acked_messages = GREATEST(c.acked_messages, excluded.acked_messages),
            acked_receipts = GREATEST(c.acked_receipts, excluded.acked_receipts),
            derived = GREATEST(c.derived, excluded.derived),
            heard_ms = GREATEST(c.heard_ms, excluded.heard_ms)";
    /// Users who have a device that is behind.
    mark_underived: "
        INSERT INTO underived (user_id) SELECT * FROM unnest($1::text[]) ON CONFLICT (user_id) DO NOTHING";
    delete_cursors: "
        DELETE FROM cursors c USING unnest($1::text[], $2::text[]) AS a (user_id, device_id)
        WHERE c.user_id = a.user_id AND c.device_id = a.device_id";
    /// A block of message ids.
    next_ids: "SELECT nextval('message_ids')";

    epoch: "SELECT epoch FROM store";
    /// Where each of these users stands, and what of its messages is gone.
    page_heads: "
        SELECT a.i, h.class, h.head, h.gap_up_to, h.gap_count, h.gap_reason
        FROM unnest($1::text[]) WITH ORDINALITY AS a (user_id, i) JOIN heads h ON h.user_id = a.user_id";
    /// Messages of timelines: users, devices, above which version, at most how many, of how many bytes of text (at least the first, and one more
    /// than fits), whether with texts. What the device has sent itself has no text there. Texts are read only of what fits.
    page_messages: "
        SELECT a.i, e.*
        FROM unnest($1::text[], $2::text[], $3::int8[], $4::int8[], $5::int8[], $6::bool[]) WITH ORDINALITY
            AS a (user_id, device_id, above, most, bytes, texts, i)
        CROSS JOIN LATERAL (
            SELECT w.version, w.conversation, w.seq, w.server_msg_id, w.user_id, w.device_id, w.client_msg_id, w.time_ms,
                CASE WHEN a.texts THEN w.body ELSE '' END AS body, w.change, w.media
            FROM (
                SELECT t.version, t.conversation, t.seq, m.server_msg_id, m.user_id, m.device_id, m.client_msg_id, m.time_ms,
                    m.body, m.change, m.media,
                    sum(CASE WHEN m.user_id = a.user_id AND m.device_id = a.device_id OR NOT a.texts THEN 0
                        ELSE octet_length(m.body) END)
                    OVER (ORDER BY t.version ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS bytes_before
                FROM (
                    SELECT version, conversation, seq FROM timeline
                    WHERE user_id = a.user_id AND version > a.above ORDER BY version LIMIT a.most
                ) t LEFT JOIN messages m ON m.conversation = t.conversation AND m.seq = t.seq
            ) w WHERE w.bytes_before IS NULL OR w.bytes_before <= a.bytes
        ) e
        ORDER BY a.i, e.version";
    /// Receipts of timelines, in the same way.
    page_receipts: "
        SELECT a.i, e.*
        FROM unnest($1::text[], $2::int8[], $3::int8[]) WITH ORDINALITY AS a (user_id, above, most, i)
        CROSS JOIN LATERAL (
            SELECT r.version, r.conversation, r.member, r.kind, r.seq, r.time_ms
            FROM receipts r WHERE r.user_id = a.user_id AND r.version > a.above
            ORDER BY r.version LIMIT a.most
        ) e
        ORDER BY a.i, e.version";
    /// Where devices stand: users, devices.
    devices: "
        SELECT a.i, h1.head, h1.foreign_head, h2.head, c.acked_messages, c.acked_receipts, c.derived, c.heard_ms
        FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS a (user_id, device_id, i)
        LEFT JOIN heads h1 ON h1.user_id = a.user_id AND h1.class = 1
        LEFT JOIN heads h2 ON h2.user_id = a.user_id AND h2.class = 2
        LEFT JOIN cursors c ON c.user_id = a.user_id AND c.device_id = a.device_id";
    highest_ids: "
        SELECT a.i, s.highest
        FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS a (user_id, device_id, i)
        JOIN senders s ON s.user_id = a.user_id AND s.device_id = a.device_id";
    underived: "
        SELECT c.user_id, c.device_id FROM underived u JOIN cursors c ON c.user_id = u.user_id
        WHERE u.user_id >= $1::text AND c.acked_messages > c.derived AND (c.user_id, c.device_id) > ($1::text, $2::text)
        ORDER BY c.user_id, c.device_id LIMIT $3::int8";
    conversations: "
        SELECT c.id, c.title, c.seq, c.time_ms, (SELECT count(*) FROM members o WHERE o.conversation = c.id),
            m.joined, m.last_sent, m.delivered, m.read
        FROM members m JOIN conversations c ON c.id = m.conversation
        WHERE m.user_id = $1::text AND m.conversation > $2::text AND c.seq > 0
        ORDER BY m.conversation LIMIT $3::int8";
    conversation: "SELECT seq, time_ms, title, owner FROM conversations WHERE id = $1::text";
    history: "
        SELECT seq, server_msg_id, user_id, client_msg_id, time_ms, body, change, media
        FROM messages WHERE conversation = $1::text AND seq >= $2::int8 AND seq < $3::int8
        ORDER BY seq DESC LIMIT $4::int8";
    /// Which conversations refer to media: its id, behind which name, at most how many.
    references: "
        SELECT conversation, seq FROM media_references WHERE media = $1::bytea AND conversation > $2::text
        ORDER BY conversation LIMIT $3::int8";
    /// The same, of those that a user may see.
    references_for: "
        SELECT r.conversation, r.seq
        FROM media_references r JOIN members m ON m.conversation = r.conversation AND m.user_id = $4::text
        WHERE r.media = $1::bytea AND r.conversation > $2::text AND m.joined <= r.seq
        ORDER BY r.conversation LIMIT $3::int8";
}
