//! Planted faults: switches that each break one rule, so that the checker can be seen to catch it.
//!
//! They exist only in builds with the feature `planted-faults`, where the environment variable
//! `TERN_PLANTED_FAULT` names at most one. Without the feature [`active`] is `false` at compile time.

/// A rule that can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A resend is stored as a new message.
    NoDedup,
    /// What was sent before a restart is not recognised after it.
    DedupForgottenAtRestart,
    /// Acknowledges first and writes later.
    AckBeforeCommit,
    /// A later version becomes visible before an earlier one.
    VersionOutOfCommitOrder,
    /// Now and then the message does not enter the recipient's timeline.
    RecipientDropped,
    /// Acknowledged positions are lost at restart.
    KeyBackAtRestart,
    /// Deltas start before a sync on the link has ended, so that they skip entries.
    DeltaWithoutBeforeCheck,
    /// The sending device gets no stub of its own message.
    OwnStubMissing,
    /// The same id with other content gets the first message's result.
    ConflictAccepted,
    /// A peek acknowledges.
    PeekAcknowledges,
    /// An acknowledgement of one device counts for all devices of the user.
    AckMovesOtherDevices,
    /// A read mark may go back.
    ReadMarkGoesBack,
    /// A read mark beyond the head is taken.
    ReadAhead,
    /// Now and then an entry is handed to a third user too.
    ForeignEntry,
    /// Sequence numbers of a conversation start again after a restart.
    SequenceBackAtRestart,
    /// Now and then a group's message does not enter the timeline of one of its members.
    GroupMemberSkipped,
    /// Who joins a group gets the message before too.
    GroupSeesBeforeJoin,
    /// Retention drops what live devices have not acknowledged, and says nothing of it.
    RetentionIgnoresDevices,
    /// A failed sync is answered as if it had succeeded.
    FailedSyncIgnored,
    /// Now and then a part of an upload is acknowledged and not written.
    PartUnwritten,
    /// Other bytes under the index of a part take the place of those that were acknowledged.
    PartOverwritten,
    /// What has outlived its time is removed without asking whether a message is about it.
    MediaUnasked,
    /// An upload is over after a fortieth of its time.
    ExpiresEarly,
    /// Media is handed to whoever asks.
    MediaForAll,
    /// A message about a clip is stored before all its chunks are.
    ClipUnfinished,
    /// In a cluster: now and then parts are acknowledged whose transaction is rolled back.
    PartRolledBack,
    /// In a cluster: versions come from a sequence, so that they may become visible out of order.
    VersionsReserved,
    /// In a cluster: a gateway forwards what is newer while it tries an older batch again.
    RetryAfterNewer,
    /// In a cluster: a gateway takes a call that has not been answered in time for one that has succeeded.
    AckOnTimeout,
    /// In a cluster: now and then a message is stored for its sender, and what is left to do for the others is lost.
    FanOutLost,
    /// In a cluster: entries that come with a hint are told whether or not they stand right above the link's key.
    NewsWithoutBeforeCheck,
    /// In a cluster: what a link is told counts as acknowledged.
    HintTakenForDelivery,
    /// In a cluster: of two links of a device the older has the place.
    OlderLinkStays,
    /// In a cluster: each word of a link dates it anew, and as late as if the word had been under way for up to two seconds.
    LinksDatedLate,
    /// In a cluster: a head in Redis, or that there is none, is taken for the real one.
    RedisHeadTrusted,
    /// In a cluster: a message that is said to be sent again, and of which Redis knows nothing, is stored as a new one.
    DedupOnlyInRedis,
    /// In a cluster: the end of a link removes the route of the device, whatever link that leads to.
    RouteLeaveUnfenced,
}

impl Fault {
    /// Every fault with the name by which it is switched on.
    pub const ALL: [(Fault, &'static str); 37] = [
        (Fault::NoDedup, "no-dedup"),
        (Fault::DedupForgottenAtRestart, "dedup-forgotten-at-restart"),
        (Fault::AckBeforeCommit, "ack-before-commit"),
        (Fault::VersionOutOfCommitOrder, "version-out-of-commit-order"),
        (Fault::RecipientDropped, "recipient-dropped"),
        (Fault::KeyBackAtRestart, "key-back-at-restart"),
        (Fault::DeltaWithoutBeforeCheck, "delta-without-before-check"),
        (Fault::OwnStubMissing, "own-stub-missing"),
        (Fault::ConflictAccepted, "conflict-accepted"),
        (Fault::PeekAcknowledges, "peek-acknowledges"),
        (Fault::AckMovesOtherDevices, "ack-moves-other-devices"),
        (Fault::ReadMarkGoesBack, "read-mark-goes-back"),
        (Fault::ReadAhead, "read-ahead"),
        (Fault::ForeignEntry, "foreign-entry"),
        (Fault::SequenceBackAtRestart, "sequence-back-at-restart"),
        (Fault::GroupMemberSkipped, "group-member-skipped"),
        (Fault::GroupSeesBeforeJoin, "group-sees-before-join"),
        (Fault::RetentionIgnoresDevices, "retention-ignores-devices"),
        (Fault::FailedSyncIgnored, "failed-sync-ignored"),
        (Fault::PartUnwritten, "part-unwritten"),
        (Fault::PartOverwritten, "part-overwritten"),
        (Fault::MediaUnasked, "media-unasked"),
        (Fault::ExpiresEarly, "expires-early"),
        (Fault::MediaForAll, "media-for-all"),
        (Fault::ClipUnfinished, "clip-unfinished"),
        (Fault::PartRolledBack, "part-rolled-back"),
        (Fault::VersionsReserved, "versions-reserved"),
        (Fault::RetryAfterNewer, "retry-after-newer"),
        (Fault::AckOnTimeout, "ack-on-timeout"),
        (Fault::FanOutLost, "fan-out-lost"),
        (Fault::NewsWithoutBeforeCheck, "news-without-before-check"),
        (Fault::HintTakenForDelivery, "hint-taken-for-delivery"),
        (Fault::OlderLinkStays, "older-link-stays"),
        (Fault::LinksDatedLate, "links-dated-late"),
        (Fault::RedisHeadTrusted, "redis-head-trusted"),
        (Fault::DedupOnlyInRedis, "dedup-only-in-redis"),
        (Fault::RouteLeaveUnfenced, "route-leave-unfenced"),
    ];

    /// The environment variable that names the fault.
    pub const VARIABLE: &'static str = "TERN_PLANTED_FAULT";
}

/// Whether this fault is switched on.
#[cfg(not(feature = "planted-faults"))]
#[inline(always)]
pub const fn active(_fault: Fault) -> bool {
    false
}

/// Whether this fault is switched on.
#[cfg(feature = "planted-faults")]
pub fn active(fault: Fault) -> bool {
    use std::sync::OnceLock;
    static PLANTED: OnceLock<Option<Fault>> = OnceLock::new();
    let planted = PLANTED.get_or_init(|| {
        let name = std::env::var(Fault::VARIABLE).ok()?;
        let found = Fault::ALL.into_iter().find(|(_, known)| *known == name).map(|(fault, _)| fault);
        assert!(found.is_some(), "{} names no fault: {name}", Fault::VARIABLE);
        found
    });
    *planted == Some(fault)
}
