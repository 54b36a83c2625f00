-- Messages that are about media.

-- What the message is about, as protobuf.
ALTER TABLE messages ADD COLUMN media bytea;

-- Which conversations have a message about which media, and the newest such message. A row stays when retention takes the message away.
CREATE TABLE media_references (
    -- The 16 bytes of its id.
    media bytea NOT NULL,
    conversation text COLLATE "C" NOT NULL,
    seq bigint NOT NULL,
    PRIMARY KEY (media, conversation)
);
