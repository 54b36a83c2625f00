//! The contract of [`Storage`]: a suite that every engine passes. For tests only.
//!
//! An engine's test file names where its stores live and takes the cases in:
//!
//! ```text
//! tern_storage::contract_cases!(MyPlace::new());  // of every engine
//! tern_storage::retention_cases!(MyPlace::new()); // of every engine, in places that keep by `retention::RULES`
//! tern_storage::restart_cases!(MyPlace::new());   // of an engine that keeps what it is told
//! ```
//!
//! Each case becomes a test with a [`Place`] of its own. What a case cannot say in a few lines, [`random`] says by comparing
//! the engine with the [`crate::reference::Reference`] over random histories.

mod author;
pub mod conversations;
pub mod cursors;
pub mod groups;
mod history;
pub mod media;
pub mod pages;
pub mod races;
pub mod random;
pub mod receipts;
pub mod restarts;
pub mod retention;
pub mod sends;

use std::sync::Arc;

use async_trait::async_trait;

use crate::Storage;

/// Where one store lives.
#[async_trait]
pub trait Place: Send + Sync {
    /// Opens the store: empty the first time, later with what it held. Whatever was opened before has been dropped.
    async fn open(&self) -> Arc<dyn Storage>;

    /// Whether the engine tells where new entries stand.
    fn tells_places(&self) -> bool {
        true
    }
}

/// A test for each case that holds for every engine. Takes an expression for a new, empty [`Place`].
#[macro_export]
macro_rules! contract_cases {
    ($place:expr) => {
        $crate::named_cases! { $place;
            sends: a_message_enters_both_timelines, a_resend_gets_the_first_answer, other_content_is_a_conflict,
                a_refusal_is_remembered, ids_come_in_any_order, each_device_names_its_own_messages,
                a_result_is_kept_and_then_never_doubled, both_sides_share_one_numbering, a_bad_op_fails_alone,
                a_batch_keeps_its_order;
            cursors: an_unknown_device_stands_nowhere, a_start_at_heads_is_no_acknowledgement,
                a_start_at_the_oldest_leaves_a_known_device_alone, acknowledgements_never_move_back,
                a_key_that_does_not_stand_acknowledges_nothing,
                an_acknowledgement_of_nothing_new_is_heard_once_an_hour,
                a_device_moves_alone, sending_acknowledges_nothing, the_underived_are_listed_in_order,
                the_longest_silent_device_yields;
            receipts: a_read_reaches_reader_and_author, a_read_of_own_messages_reaches_the_reader_only,
                a_read_mark_never_goes_back, a_read_beyond_the_head_is_refused, a_stranger_is_refused,
                a_read_implies_delivered, delivered_reaches_the_other_member_only, delivered_stops_at_the_head,
                delivered_twice_in_one_op_is_the_highest,
                a_newer_receipt_replaces_the_older;
            groups: making_a_group_tells_its_members, a_text_reaches_every_member_in_order,
                a_member_sees_from_the_message_that_added_it, the_removal_is_the_last_that_the_removed_gets,
                the_owner_moves_on, only_the_owner_removes_others, only_what_really_changes_is_told, a_group_is_full,
                a_stranger_is_refused, a_refusal_of_the_state_is_remembered,
                a_resend_of_a_change_gets_the_first_answer, ids_are_shared_by_all_conversations,
                what_was_stored_is_not_refused_afterwards, who_joins_again_sees_from_there,
                each_message_goes_to_who_is_there_then, a_read_reaches_the_authors, delivered_is_a_position_only;
            conversations: a_list_has_what_the_user_is_in, a_list_follows_the_members, a_list_comes_in_pages,
                positions_are_told, history_has_every_message_in_full, history_goes_back_page_by_page,
                history_ends_at_its_bytes;
            pages: a_page_ends_at_its_entries, a_page_ends_at_its_bytes, messages_come_before_receipts,
                an_absent_class_is_left_out, the_same_key_gets_the_same_page, nobody_reads_another_timeline;
            media: what_a_message_is_about_is_told, media_is_part_of_the_content, references_are_found_by_media,
                a_refused_message_refers_to_nothing;
            races: a_reader_misses_nothing, one_conversation_has_one_order, racing_resends_give_one_message,
                racing_receipts_stay_in_order;
            random: histories_equal_the_reference;
        }
    };
}

/// A test for each case about what an engine keeps. Takes an expression for a new, empty [`Place`].
#[macro_export]
macro_rules! restart_cases {
    ($place:expr) => {
        $crate::named_cases! { $place;
            restarts: messages_are_there_afterwards, resends_are_recognised_afterwards, numbering_goes_on,
                versions_go_on_above_what_was_replaced, acknowledgements_are_there_afterwards,
                receipts_are_there_afterwards, what_was_answered_while_stopping_is_there,
                groups_are_there_afterwards, membership_goes_on_afterwards, lists_and_history_are_there_afterwards;
            media: references_are_there_afterwards;
            random: histories_with_restarts_equal_the_reference;
        }
    };
}

/// A test for each case about what is kept for how long. Takes an expression for a new, empty [`Place`] that keeps by [`retention::RULES`].
#[macro_export]
macro_rules! retention_cases {
    ($place:expr) => {
        $crate::named_cases! { $place;
            retention: what_is_old_and_acknowledged_goes, what_is_young_stays, what_a_live_device_is_owed_stays,
                what_is_not_derived_stays, a_silent_device_holds_nothing, members_keep_for_themselves,
                too_many_entries_leave_a_hole, too_many_bytes_leave_a_hole, results_outlive_their_entries,
                a_hole_is_acknowledged, a_new_device_starts_at_the_oldest_kept, pages_go_on_across_a_drop,
                receipts_stay;
        }
    };
}

/// The tests of [`contract_cases!`], [`retention_cases!`] and [`restart_cases!`].
#[doc(hidden)]
#[macro_export]
macro_rules! named_cases {
    ($place:expr; $($module:ident: $($case:ident),+;)+) => {
        $(mod $module {
            #[allow(unused_imports)]
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    $crate::contract::$module::$case(&$place).await;
                }
            )+
        })+
    };
}
