//! Every body decodes or errs, in both its forms, and what decodes is the same after each way out and back in.

use std::fmt::Debug;

use prost::Message;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tern_proto::v1;

/// The rule for one type of message.
type Rule = fn(&[u8]);

macro_rules! every_message {
    ($($name:ident)*) => {
        /// Every message of `tern.v1`, by its name, with what must hold when the input is its body.
        pub const MESSAGES: &[(&str, Rule)] = &[$((stringify!($name), body_of::<v1::$name>)),*];
    };
}

every_message! {
    SyncKey Position HelloRequest HelloReply Limits SendRequest OutMessage GroupChange SendReply SendResult
    SyncRequest SyncReply Entry Message Stub Receipt Damaged Hole CheckRequest CheckReply AckRequest AckReply
    ReadRequest ReadReply ConversationsRequest ConversationsReply Conversation HistoryRequest HistoryReply
    MembersRequest MembersReply Member MediaBegin MediaUpload MissingParts Media Chunk ChunksStored Delta GoAway Error
}

/// Takes the input as the body of every message there is, in protobuf and in JSON.
///
/// # Panics
/// If a rule is broken.
pub fn holds(body: &[u8]) {
    for (_, rule) in MESSAGES {
        rule(body);
    }
}

fn body_of<M: Message + Default + PartialEq + Debug + Serialize + DeserializeOwned>(body: &[u8]) {
    if let Ok(message) = M::decode(body) {
        comes_back_from_protobuf(&message);
        match serde_json::to_string(&message) {
            Ok(json) => assert_eq!(serde_json::from_str::<M>(&json).expect("its own JSON"), message),
            // Only an enum value of a later version has no JSON form.
            Err(error) => assert!(error.to_string().starts_with("Invalid variant"), "{error}: {message:?}"),
        }
    }
    if let Ok(message) = serde_json::from_slice::<M>(body) {
        comes_back_from_protobuf(&message);
        let json = serde_json::to_string(&message).expect("what came as JSON has a JSON form");
        assert_eq!(serde_json::from_str::<M>(&json).expect("its own JSON"), message);
    }
}

fn comes_back_from_protobuf<M: Message + Default + PartialEq + Debug>(message: &M) {
    let bytes = message.encode_to_vec();
    assert_eq!(bytes.len(), message.encoded_len());
    assert_eq!(&M::decode(&bytes[..]).expect("its own bytes"), message);
}
