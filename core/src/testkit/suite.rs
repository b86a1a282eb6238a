/// The conformance suite: one `#[test]` for each case. Its argument makes a [`Harness`](crate::testkit::Harness): a
/// function, or a closure, that returns a future of one.
///
/// If one test for each case is too expensive, `suite!(make => tests)` hands the suite to a macro of yours, as
/// `make; group { case case … } group { … } …`. A case is the function `strait_core::testkit::cases::group::case`,
/// and [`run`](crate::testkit::run) runs it.
///
/// The calling crate needs no dependency but this one, with the feature `testkit`.
#[macro_export]
#[doc(hidden)]
macro_rules! __store_suite {
    ($make:expr) => {
        $crate::__store_suite! { $make => $crate::__store_cases }
    };
    ($make:expr => $($tests:tt)+) => {
        $($tests)+! {
            $make;
            attach {
                the_present_token_attaches
                other_tokens_do_not_attach
                a_channel_without_a_token_is_not_attached
                the_previous_token_holds_until_confirmed
                an_old_token_is_not_replayed
                a_stale_connection_confirms_nothing
                a_token_that_is_not_replaced_stays
                the_detached_displace_nobody
                a_holder_attaches_with_its_generation_only
                a_holder_whose_answer_was_lost_attaches_again
                a_holder_leaves_the_client_its_token
                opening_stays_opening_when_it_moves
                a_taken_location_is_a_conflict
                the_place_that_a_channel_left_is_free
                writers_of_older_generations_are_refused
                the_dead_refuse_everything
                the_detached_keep_what_they_have
                detaching_twice_is_detaching_once
                an_unknown_channel_is_stale
                of_many_connections_the_last_one_has_the_channel
            }
            bus {
                a_node_hears_what_it_is_interested_in
                a_node_hears_itself
                a_node_hears_nothing_else
                interest_ends
                interest_twice_hears_once
                interest_answers_each_head
                all_nodes_hear_one_order
                nothing_is_lost_after_the_head
                commands_arrive_in_order
                commands_arrive_as_they_are
                commands_go_to_one_node
                a_node_is_on_the_bus_once
                who_stops_is_gone
                who_is_dropped_is_gone
                a_lost_log_is_noticed
                a_healthy_bus_hears
            }
            claims {
                a_claim_ends_the_channel
                of_many_claimers_one_has_it
                a_claimed_channel_is_not_claimed_again
                a_claimant_that_asks_again_has_its_claim
                a_claimant_that_asks_too_late_has_lost_its_claim
                what_ends_at_once_is_claimed_or_gone
                an_unknown_channel_is_not_claimed
                the_claimer_writes_to_the_tombstone
                an_abandoned_claim_comes_back
                who_outlived_a_claim_is_fenced_off
                a_renewed_claim_does_not_come_back
                an_ended_grace_is_due
                what_a_gateway_holds_is_due_in_its_time
                who_ends_or_moves_before_its_time_is_not_due
                what_is_not_due_is_left_alone
                the_due_come_in_pages
                concurrent_claimers_share_what_is_due
            }
            unserved {
                channels_of_other_endpoints_are_left_to_others
                the_overdue_are_claimed_by_anybody
                many_of_other_endpoints_hide_nobody
            }
            connected {
                the_connected_are_listed
                those_of_one_node_are_listed_in_pages
                who_stays_is_listed_while_others_come_and_go
                a_cursor_that_no_page_gave_lists_nobody_else
            }
            direct {
                a_connected_channel_is_located
                a_resumable_channel_is_located_and_keeps_it
                a_detached_channel_has_an_inbox
                nobody_is_absent
                a_wrong_position_is_a_gap
                concurrent_sends_are_all_kept_in_order
                an_inbox_goes_with_its_channel
            }
            leases {
                a_lease_is_held_and_renewed
                a_lease_that_never_was_is_lost
                an_ended_lease_is_lost
                a_renewed_lease_keeps_its_channels
                a_released_lease_makes_channels_due
                a_node_without_a_lease_is_dead
                a_dead_nodes_channels_come_in_pages
                a_dead_nodes_resumable_channels_wait
                a_dead_nodes_resumable_channels_keep_what_they_have
                a_dead_nodes_opening_channels_do_not_wait
                a_node_that_comes_back_takes_its_channels
                a_channel_that_moved_is_not_its_old_nodes
                gateways_hold_no_lease
                who_attaches_in_time_is_not_claimed
                a_renewal_at_the_end_of_its_term_keeps_its_channels_or_is_lost
            }
            lock {
                a_lock_is_exclusive
                of_many_lockers_one_is_inside
                a_lock_that_ran_out_is_lost
                channels_are_locked_apart
                a_lock_goes_with_its_channel
            }
            log {
                offsets_count_up_by_one
                concurrent_publishers_leave_no_gap
                slices_are_answered_in_order
                every_position_replays
                history_is_the_last_that_is_kept
                retention_by_count
                less_retention_drops_more
                retention_by_age
                the_young_outlive_the_old
                a_wrong_check_is_a_gap
                a_position_of_another_log_is_a_gap
                an_unknown_topic_is_a_gap
                a_lost_log_has_another_epoch
                an_event_that_is_not_kept_ends_the_log
                a_retention_of_nothing_keeps_nothing
                a_key_is_published_once
                long_keys_are_told_apart
                a_key_is_its_topics_own
                a_key_holds_without_retention
                of_many_with_one_key_one_is_published
                events_are_kept_as_they_are
                topics_count_apart
            }
            names {
                what_is_no_name_is_refused
                channels_by_any_name
                connections_by_any_name
                nodes_by_any_name
                topics_by_any_name
                users_by_any_name
                keys_and_events_by_any_name
            }
            presence {
                who_is_present_is_listed
                coming_and_going_are_events
                an_entry_may_be_empty
                one_channel_has_one_entry
                presence_can_begin_and_end_while_a_member
                a_crowd_is_listed_in_pages
                death_hides_an_entry_at_once
                members_without_presence_come_and_go_in_silence
                a_log_has_comings_and_goings_too
            }
            records {
                opening_makes_a_record
                a_channel_without_extras_has_none
                opening_again_answers_the_record_as_it_is
                opening_an_id_elsewhere_is_a_conflict
                opening_at_a_taken_location_is_a_conflict
                of_many_opens_at_once_one_creates
                of_many_channels_at_one_location_one_opens
                an_unknown_channel_is_absent
                channels_are_found_where_they_are
                a_channel_is_found_at_its_last_location
                id_and_location_are_free_after_removal
                a_connected_channel_becomes_open
                removing_twice_is_removing_once
                removing_none_does_nothing
                only_the_claim_removes
                the_removed_do_not_come_back
                long_values_are_kept_whole
                a_nodes_connection_is_its_own
            }
            relay {
                a_relay_is_exclusive_and_goes_on
                a_lost_relay_moves_nothing
                a_relay_is_held_on_while_its_cursor_moves
                of_many_relays_one_is_held
                topics_are_relayed_apart
                without_indexed_members_there_is_no_relay
                the_cursor_goes_with_the_last_member
            }
            subscriptions {
                a_channel_joins_once
                an_empty_topic_has_a_head
                only_the_living_join
                a_channel_leaves_once
                an_unknown_topic_is_empty
                each_item_is_answered
                only_the_indexed_are_listed
                members_are_where_they_are_now
                a_member_can_change_its_index
                thousands_are_listed_in_pages
                who_stays_is_listed_once_while_others_go
                death_hides_a_member_at_once
                the_sweep_leaves_nothing
                who_joins_while_dying_leaves_no_row
                publications_tell_of_indexed_members
                one_channel_may_have_many_topics
                a_foreign_cursor_is_refused_or_ends
            }
            values {
                state_is_absent_until_set
                state_is_replaced_not_merged
                cleared_state_keeps_counting
                null_is_not_absent
                state_of_another_version_is_a_conflict
                a_patch_is_written_whole_or_not
                an_empty_patch_changes_nothing
                concurrent_changes_are_all_counted
                sessions_are_set_replaced_and_cleared
                a_session_of_another_version_is_a_conflict
                a_session_moves_with_its_channel
            }
        }
    };
}

#[macro_export]
#[doc(hidden)]
macro_rules! __store_cases {
    ($make:expr; $($group:ident { $($case:ident)* })*) => {$(
        mod $group {
            #[allow(unused_imports)]
            use super::*;

            $(
                #[test]
                fn $case() {
                    $crate::testkit::run($make, $crate::testkit::cases::$group::$case);
                }
            )*
        }
    )*};
}

#[cfg(test)]
mod tests {
    /// A case that the macro does not name would never run.
    #[test]
    fn every_case_is_in_the_suite() {
        let suite = include_str!("suite.rs");
        let mut cases = 0;
        for file in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/testkit/cases")).unwrap() {
            let source = std::fs::read_to_string(file.unwrap().path()).unwrap();
            for case in source.lines().filter_map(|line| line.strip_prefix("pub async fn ")) {
                let name = case.split('(').next().unwrap();
                assert!(suite.lines().any(|line| line.trim() == name), "the suite does not name {name}");
                cases += 1;
            }
        }
        assert!(cases > 100);
    }
}
