-- The first schema.
--
-- Names are compared by bytes, as everywhere in Tern. Texts and titles are bytes: a text may hold a NUL, which PostgreSQL's own text may not.
-- Rows that change with every message leave room in their pages, so that the new version of a row stands beside the old one and no index is touched.

-- Which life of the store this is. Its row is made by the first start, see epoch.rs.
CREATE TABLE store (
    id smallint PRIMARY KEY CHECK (id = 1),
    epoch bigint NOT NULL,
    -- Of the database cluster that held all of it: a mismatch means a copy or a promoted standby.
    system_identifier text NOT NULL,
    timeline bigint NOT NULL
);

-- Message ids are unique, and nothing else is promised of them: each replica takes a block at a time.
CREATE SEQUENCE message_ids INCREMENT BY 65536;

-- What is remembered of the sends of a device, beside the results themselves. Client ids are stored so that their order as signed numbers is their own.
CREATE TABLE senders (
    user_id text COLLATE "C" NOT NULL,
    device_id text COLLATE "C" NOT NULL,
    -- Results at or below may be forgotten.
    floor bigint NOT NULL,
    -- The highest id seen, and the highest before the last batch: what is above that is new for certain.
    highest bigint NOT NULL,
    highest_before bigint NOT NULL,
    PRIMARY KEY (user_id, device_id)
) WITH (fillfactor = 50);

-- Where a device is in the timelines of its user.
CREATE TABLE cursors (
    user_id text COLLATE "C" NOT NULL,
    device_id text COLLATE "C" NOT NULL,
    acked_messages bigint NOT NULL,
    acked_receipts bigint NOT NULL,
    -- Delivered receipts are derived from the messages up to here.
    derived bigint NOT NULL,
    heard_ms bigint NOT NULL,
    PRIMARY KEY (user_id, device_id)
) WITH (fillfactor = 50);

-- Users who may have a device with acknowledgements that receipts are not derived from yet. An index on cursors would say it too, but then no change of a
-- cursor could leave the indexes alone. A mark is set under the locks of the user's cursors, and taken away under them by retention.
CREATE TABLE underived (
    user_id text COLLATE "C" PRIMARY KEY
);

-- The head of each timeline. Whoever adds an entry takes its version from here, in the transaction that adds it, and so holds the row to its end:
-- what commits later has the higher version.
CREATE TABLE heads (
    user_id text COLLATE "C" NOT NULL,
    class smallint NOT NULL,
    head bigint NOT NULL,
    -- Of messages alone: how many and how many bytes are kept, the newest of somebody else, and what retention has dropped.
    entries bigint NOT NULL DEFAULT 0,
    bytes bigint NOT NULL DEFAULT 0,
    foreign_head bigint NOT NULL DEFAULT 0,
    gap_up_to bigint NOT NULL DEFAULT 0,
    gap_count bigint NOT NULL DEFAULT 0,
    gap_reason smallint NOT NULL DEFAULT 0,
    PRIMARY KEY (user_id, class)
) WITH (fillfactor = 50);

CREATE TABLE conversations (
    id text COLLATE "C" PRIMARY KEY,
    seq bigint NOT NULL,
    time_ms bigint NOT NULL,
    title bytea NOT NULL DEFAULT '',
    -- Of a group that has members.
    owner text COLLATE "C"
) WITH (fillfactor = 50);

-- Changed under the lock of the conversation's row only.
CREATE TABLE members (
    conversation text COLLATE "C" NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    joined bigint NOT NULL,
    -- Among those who joined with the same message.
    place smallint NOT NULL,
    last_sent bigint NOT NULL,
    delivered bigint NOT NULL,
    read bigint NOT NULL,
    PRIMARY KEY (conversation, user_id)
) WITH (fillfactor = 70);

CREATE UNIQUE INDEX members_by_user ON members (user_id, conversation);

-- A message, once, with the result of its send.
CREATE TABLE messages (
    conversation text COLLATE "C" NOT NULL,
    seq bigint NOT NULL,
    server_msg_id bigint NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    device_id text COLLATE "C" NOT NULL,
    client_msg_id bigint NOT NULL,
    time_ms bigint NOT NULL,
    -- Of what the client sent: other content under the same id is a conflict.
    hash bigint NOT NULL,
    -- In how many timelines it stands.
    refs smallint NOT NULL,
    body bytea NOT NULL,
    -- The change to a group, as protobuf.
    change bytea,
    PRIMARY KEY (conversation, seq)
);

CREATE UNIQUE INDEX messages_results ON messages (user_id, device_id, client_msg_id);
CREATE INDEX messages_unreferenced ON messages (time_ms) WHERE refs = 0;

-- A final refusal is a result like any other.
CREATE TABLE refusals (
    user_id text COLLATE "C" NOT NULL,
    device_id text COLLATE "C" NOT NULL,
    client_msg_id bigint NOT NULL,
    time_ms bigint NOT NULL,
    hash bigint NOT NULL,
    code integer NOT NULL,
    PRIMARY KEY (user_id, device_id, client_msg_id)
);

CREATE INDEX refusals_by_time ON refusals (time_ms);

-- Class 1: which message stands at which version of whose timeline.
CREATE TABLE timeline (
    user_id text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    conversation text COLLATE "C" NOT NULL,
    seq bigint NOT NULL,
    bytes integer NOT NULL,
    PRIMARY KEY (user_id, version)
);

-- Class 2: the latest of each kind.
CREATE TABLE receipts (
    user_id text COLLATE "C" NOT NULL,
    conversation text COLLATE "C" NOT NULL,
    member text COLLATE "C" NOT NULL,
    kind smallint NOT NULL,
    version bigint NOT NULL,
    seq bigint NOT NULL,
    time_ms bigint NOT NULL,
    PRIMARY KEY (user_id, conversation, member, kind)
);

CREATE UNIQUE INDEX receipts_by_version ON receipts (user_id, version);

-- Who does what only one replica at a time should do. The token rises with each holder, so that a late one is told from its successor.
CREATE TABLE leases (
    name text COLLATE "C" PRIMARY KEY,
    holder bigint NOT NULL,
    token bigint NOT NULL,
    expires timestamptz NOT NULL,
    -- How far the holders have come.
    position text COLLATE "C" NOT NULL
);
