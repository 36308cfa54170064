"""The mutants: each takes out one rule on which exactness stands. `scenarios` run real processes, `units` do not."""

from __future__ import annotations

from typing import NamedTuple

_CLOCK_STEPS = "tests/scenarios/redis/test_clock_steps.py::test_"
_ADAPTER = "tests/workers/providers/test_request_adapter.py::test_"
_REQUEST = "tests/workers/providers/test_openai_request.py::test_"
_CRASHES = "tests/scenarios/workers/test_crashes.py::test_"
_DOUBTS = "tests/scenarios/delivery/test_doubts.py::test_"
_FLUSHING = "tests/scenarios/redis/test_flushing.py::test_"
_GOING = "tests/scenarios/workers/test_going.py::test_"
_IN_NODE = "tests/static/test_relay_client_in_node.py::test_"
_IDLE = "tests/scenarios/redis/test_idle_connections.py::test_"
_SATURATED = "tests/scenarios/workers/test_saturated.py::test_"
_STOP = "tests/scenarios/stops/test_stop.py::test_"
_ACCESS = "tests/workers/providers/test_access.py::test_"
_LOGGED = "tests/workers/asking/test_what_is_logged.py::test_"
_APPEND = "tests/store/session/test_append.py::test_"
_CLAIM = "tests/store/session/test_claim.py::test_"
_CONSUMER = "tests/workers/test_consumer.py::test_"
_FAILOVER = "tests/scenarios/providers/test_failover.py::test_"
_ANSWER = "tests/workers/asking/test_answer_request.py::test_"
_FLUSHER = "tests/workers/writing/test_flusher.py::test_"
_REBUILDING = "tests/workers/writing/test_rebuilding.py::test_"
_RESUMING = "tests/workers/asking/test_background_call.py::test_"
_DOCUMENTED = "tests/protocol/test_documented.py::test_"
_END = "tests/store/session/test_end.py::test_"
_FOLLOWER = "tests/follow/test_follower.py::test_"
_FOLDER = "tests/test_private_folder.py::test_"
_GUARD = "tests/gateway/test_origin_check.py::test_"
_HTTP = "tests/gateway/test_http_protocol.py::test_"
_HUB = "tests/gateway/test_follower_pool.py::test_"
_MOVED = "tests/follow/test_moved_meanwhile.py::test_"
_OWNER = "tests/store/session/test_owner.py::test_"
_FOLLOWED_OWNER = "tests/follow/test_owner.py::test_"
_OWNERSHIP = "tests/gateway/test_ownership.py::test_"
_POOL = "tests/redis/test_pool.py::test_"
_EXPIRY = "tests/store/test_expiry.py::test_whatever_a_script_writes_expires_whichever_key_redis_has_lost"
_TIMEOUTS = "tests/test_timeouts.py::test_"
_MISSING = "tests/client/test_missing.py::test_"
_CALLER = "tests/gateway/test_caller.py::test_"
_GUARDED = "tests/gateway/test_guard.py::test_"
_CLIENT_TOKENS = "tests/client/test_tokens.py::test_"
_TOKENS_IN_NODE = "tests/static/test_tokens_in_node.py::test_"
_JWKS = "tests/auth/test_jwks.py::test_"
_TICKETS = "tests/auth/test_tickets.py::test_"
_TOKENS = "tests/auth/test_tokens.py::test_"
_VIEW = "tests/protocol/test_view.py::test_"
_COMPACT = "tests/protocol/test_compact.py::test_"
_TRIM = "tests/store/session/test_trim.py::test_"
_SNAPSHOTS = "tests/store/session/test_snapshots.py::test_"
_UNSERVED = "tests/store/queue/test_unserved.py::test_"
_VERSIONS = "tests/store/session/test_versions.py::test_"
_RIGHTS = "tests/store/test_acl.py::test_"
_JOBS = "tests/store/test_jobs.py::test_"
_RELEASES = "tests/store/test_two_releases.py::test_"
_SHAPES = "tests/store/test_shapes.py::test_"
_OPTIONS = "tests/protocol/test_options.py::test_"
_READING = "tests/workers/providers/test_reading.py::test_"
_JOINED = "tests/workers/providers/test_joined_chunks.py::test_"
_EVENT_STREAM = "tests/workers/providers/test_event_stream.py::test_"
_PROVIDERS = "workers/relay_workers/providers/"


class Change(NamedTuple):
    """`source` stands exactly once in the file; a test holds that, so that this table cannot rot."""

    source: str
    replacement: str


class Mutant(NamedTuple):
    """All of `tests` are expected to turn red."""

    name: str
    file: str
    changes: list[Change]
    scenarios: list[str]
    units: list[str]

    @property
    def tests(self) -> list[str]:
        return [*self.scenarios, *self.units]


MUTANTS = [
    Mutant(
        "a follower that trusts pub/sub",
        "relay/follow/follower.py",
        [Change("elif seq == self.frontier + 1:", "elif seq > 0:")],
        [_DOUBTS + "what_pub_sub_says_twice_early_or_of_another_life_is_not_shown"],
        [
            _FOLLOWER + "a_message_that_comes_twice_is_shown_once",
            _FOLLOWER + "messages_out_of_order_are_shown_in_order",
        ],
    ),
    Mutant(
        "an append without its number",
        "relay/store/session/lua/append.lua",
        [Change("if n <= done then return { 'repeated', state[2] or '0', epoch } end\n", "")],
        [_DOUBTS + "statuses_whose_replies_are_lost_are_written_once"],
        [_APPEND + "a_number_that_is_repeated_is_answered_as_it_was_then"],
    ),
    Mutant(
        "no fence",
        "relay/store/session/lua/generation.lua",
        [Change("if tonumber(state[1]) > tonumber(fence) then return { 'stale' } end", "")],
        [_DOUBTS + "a_frozen_worker_that_wakes_up_cannot_end_what_another_one_writes"],
        [_APPEND + "a_worker_that_lost_its_claim_writes_nothing_more"],
    ),
    Mutant(
        "a lease that a late renewal revives after it was given back",
        "relay/store/session/lua/generation.lua",
        [Change("if held and not state[3] then return { 'stale' } end", "")],
        [],
        [_CLAIM + "what_is_on_its_way_as_it_is_given_back_does_not_revive_the_lease"],
    ),
    Mutant(
        "a rebuild that takes back what was given back",
        "relay/store/session/lua/rebuild.lua",
        [Change("if not state[3] and state[2] == held then return { 'stale' } end", "")],
        [],
        [_CLAIM + "what_is_on_its_way_as_it_is_given_back_does_not_revive_the_lease"],
    ),
    Mutant(
        "a lost row that nobody puts back",
        "relay/store/queue/lua/enqueue.lua",
        [Change("if not redis.call('ZSCORE', QUEUE.open, ARGV[1]) then add_row() end", "")],
        [],
        [
            "tests/store/queue/test_queue.py::test_a_row_that_was_lost_without_its_job_comes_back",
            "tests/store/queue/test_reaper.py::test_an_answer_whose_row_alone_is_lost_has_it_again_and_is_taken_over",
        ],
    ),
    Mutant(
        "a log that is made again for ever",
        "relay/store/session/lua/prelude.lua",
        [Change("  if redis.call('XLEN', KEY.log) == 1 then created[#created + 1] = KEY.log end\n", "")],
        [],
        [_EXPIRY],
    ),
    Mutant(
        "reasoning that is made again for ever",
        "relay/store/session/lua/append.lua",
        [Change("== #ARGV[12]", "and stored == 0")],
        [],
        [_EXPIRY],
    ),
    Mutant(
        "a session that is made for a refusal, and for ever",
        "relay/store/session/lua/prelude.lua",
        [Change("  redis.call('PEXPIRE', KEY.meta, ttl_ms) -- until the first event (keep)\n", "")],
        [],
        [_EXPIRY],
    ),
    Mutant(
        "an append where the session is lost",
        "relay/store/session/lua/generation.lua",
        [Change("  if not epoch then return { 'unknown' } end\n", "")],
        [],
        [
            _EXPIRY,
            "tests/store/session/test_session_log.py::test_where_meta_is_lost_alone_nothing_goes_on_in_what_is_left",
        ],
    ),
    Mutant(
        "an offer whose reply was lost and that nobody takes back",
        "relay/store/queue/worker_registry.py",
        [Change("        self._made, self._made_at = bodies + withdrawn, -math.inf\n", "")],
        [],
        [
            "tests/store/queue/test_worker_registry.py::test_what_landed_without_a_reply_is_taken_back_too",
            "tests/store/queue/test_worker_registry.py::test_what_is_taken_back_and_offered_again_stands_though_a_reply_was_lost",
        ],
    ),
    Mutant(
        "no index check",
        "relay/store/session/lua/append.lua",
        [
            Change("if index < stored then", "if false then"),
            # What the text's length says keeps it out as well, by a rebuild.
            Change("STRLEN', text) + #ARGV[12] ~= tonumber(ARGV[13]) then", "STRLEN', text) < 0 then"),
        ],
        [_FLUSHING + "a_batch_that_landed_unseen_and_whose_tokens_land_unseen_is_written_once"],
        [_APPEND + "tokens_that_are_stored_already_are_not_stored_again_under_another_number"],
    ),
    Mutant(
        "publish before write",
        "relay/store/session/lua/append.lua",
        [
            Change(
                "local lease = digits(now + tonumber(ARGV[7]))\n",
                "local lease = digits(now + tonumber(ARGV[7]))\n"
                "local before = redis.call('HMGET', KEY.meta, 'epoch', 'seq')\n"
                "redis.call(publish_verb, KEY.events, before[1] .. ' ' .. digits(before[2] + 1) .. ' ' .. body)\n",
            ),
            Change("keep()\npublish(epoch)\n", "keep()\n"),
        ],
        [_DOUBTS + "a_redis_that_is_full_is_shown_no_further_than_it_holds"],
        [],
    ),
    Mutant(
        "a lost epoch change",
        "relay/follow/follower.py",
        [Change("(opened.epoch, opened.head) == (self.epoch, self.frontier)", "opened.head == self.frontier")],
        [_DOUBTS + "a_log_that_began_anew_as_long_as_the_old_one_is_told_as_another_life"],
        [],
    ),
    Mutant(
        "a lease that protects nobody",
        "relay/store/session/lua/claim.lua",
        [Change("if left_ms > 0 and state[6] and state[6] ~= ARGV[5] then", "if false then")],
        [_DOUBTS + "a_job_that_a_second_worker_gets_stays_with_the_first_while_it_lives"],
        [_CLAIM + "a_claim_is_refused_while_a_lease_is_alive"],
    ),
    Mutant(
        "a takeover without a restart",
        "relay/store/session/lua/claim.lua",
        [Change("return { 'claimed', fence, state[4], state[3] or '0', history,",
                "return { 'claimed', fence, state[4], '0', history,")],
        [_CRASHES + "a_worker_killed_in_mid_answer_is_replaced_and_its_text_is_void"],
        [_CLAIM + "a_claim_tells_whether_its_attempt_has_shown_anything"],
    ),
    Mutant(
        "a stop that ends again what has ended",
        "relay/store/session/lua/stop.lua",
        [Change("if state[1] == 'ended' then return { 'ended' } end", "")],
        [_STOP + "stops_racing_with_the_end_leave_exactly_one_end"],
        [_END + "a_stop_of_what_has_ended_or_never_was_writes_nothing"],
    ),
    Mutant(
        "a stop that is not told to the worker's appends",
        "relay/store/session/lua/generation.lua",
        [Change("if state[2] == 'ended' then return { 'ended' } end", "")],
        [],  # the fence that a stop raises keeps a worker out as well
        [_APPEND + "nothing_is_written_after_the_end_or_without_a_generation"],
    ),
    Mutant(
        "a merge across data",
        "relay/protocol/compact.py",
        [Change("self._open.pop((kind, generation, header.attempt), None)", "pass")],
        [],
        [_COMPACT + "nothing_merges_across_data_of_its_generation_and_attempt"],
    ),
    Mutant(
        "a trim across data",
        "relay/store/session/lua/trim.lua",
        [Change("      open = {}\n", "")],
        [],
        [_TRIM + "many_batches_become_one_on_either_side_of_data_and_everything_else_stays"],
    ),
    Mutant(
        "a snapshot's data without its place",
        "relay/store/session/lua/append.lua",
        [Change("(redis.call('HGET', key, 'bytes') or '0') .. ' ' .. body", "'0 ' .. body")],
        [],
        ["tests/store/session/test_snapshots.py::test_data_stands_in_a_snapshot_with_its_place_in_the_text"],
    ),
    Mutant(
        "a snapshot of two moments",
        "relay/store/session/snapshots.py",
        [Change("self.text[: running.text_bytes], self.reasoning[", "self.text, self.reasoning[")],
        [],
        [
            _SNAPSHOTS + "a_session_is_as_of_one_moment_though_its_answers_go_on",
            _SNAPSHOTS + "whatever_happens_meanwhile_a_snapshot_is_what_a_viewer_shows_at_its_head",
        ],
    ),
    Mutant(
        "a snapshot with what comes back after its moment",
        "relay/store/session/snapshots.py",
        [Change(' if _ended_by(stored.fields.get("last"), moment.head) else None', "")],
        [],
        [_SNAPSHOTS + "what_had_been_lost_at_the_moment_is_left_out_though_it_comes_back"],
    ),
    Mutant(
        "the floor as a version",
        "relay/store/session/versions.py",
        [Change("return (self.floor, self.trims) == (other.floor, other.trims)", "return self.floor == other.floor")],
        [],
        [
            _VERSIONS + "a_trim_below_the_floor_between_two_pages_takes_no_text",
            _VERSIONS + "a_generation_removed_below_the_floor_between_two_pages_is_not_left_half_shown",
        ],
    ),
    Mutant(
        "pages of two versions joined",
        "relay/follow/replay.py",
        [Change("if not segment.version.continues(self.version, after):", "if False:")],
        [],
        [
            _VERSIONS + "a_trim_below_the_floor_between_two_pages_takes_no_text",
            _VERSIONS + "whatever_is_trimmed_and_removed_under_way_every_reader_ends_with_the_log",
        ],
    ),
    Mutant(
        "a change that begins everybody anew",
        "relay/store/session/versions.py",
        [Change("return not any(change.first <= after < change.last for change in since)", "return not since")],
        [],
        [
            _VERSIONS + "a_reader_goes_on_unless_it_stands_in_what_has_changed",
            _VERSIONS + "a_trim_elsewhere_sends_nobody_back",
        ],
    ),
    Mutant(
        "a page that was merged beyond what is shown",
        "relay/follow/replay.py",
        [Change('        self._extend_to_floor(segment.version.floor)\n', '')],
        [],
        [_VERSIONS + "a_replay_whose_page_was_merged_beyond_what_is_shown_waits_for_that"],
    ),
    Mutant(
        "a cursor below the floor is honoured",
        "relay/follow/follower.py",
        [Change('self.floor <= seq <= self.broadcast.flushed', 'seq <= self.broadcast.flushed')],
        [_DOUBTS + "a_cursor_into_what_was_merged_since_is_not_honoured"],
        [_FOLLOWER + "a_cursor_below_the_floor_is_not_honoured_except_at_the_very_beginning"],
    ),
    Mutant(
        "a client that shows what follows a gap",
        "relay/protocol/view.py",
        [Change("if first != self.last + 1:", "if last <= self.last:")],
        [],
        [_VIEW + "a_frame_that_starts_later_is_a_gap_and_changes_nothing"],
    ),
    Mutant(
        "an accepted answer that nobody misses",
        "relay/client/answer.py",
        [Change('        subscription.expect(generation)\n', '')],
        [],
        [_MISSING + "an_answer_that_was_accepted_and_never_came_is_lost_for_all_who_follow"],
    ),
    Mutant(
        "an answer that is missed before its log is shown",
        "relay/client/subscription.py",
        [Change(" and not view.rebuilding", "")],
        [],
        [_MISSING + "time_counts_only_once_the_whole_log_is_shown"],
    ),
    Mutant(
        "a question that goes before a retry of it",
        "relay/protocol/view.py",
        [Change("[-keep:] if a_retry_is_shown else []", "[-keep:] if False else []")],
        [],
        [_VIEW + "a_question_stays_while_a_retry_of_it_is_shown"],
    ),
    Mutant(
        "commands that are looked through all at once",
        "relay/client/dispatcher.py",
        [Change("if not any(request.suspect for request in waiting):", "if True:")],
        [],
        ["tests/client/test_dispatcher.py::test_of_several_that_wait_the_one_that_could_not_be_read_is_found"
         "_and_the_others_are_taken"],
    ),
    Mutant(
        "a failover that joins two texts",
        "workers/relay_workers/asking/answer_request.py",
        [Change('self._flusher.restart("provider_failed")', 'self._flusher.status("retrying")')],
        [_FAILOVER + "in_mid_answer_the_next_provider_begins_a_new_attempt"],
        [_ANSWER + "what_was_shown_of_a_provider_that_failed_is_void_before_another_says_anything"],
    ),
    Mutant(
        "a call without a lease",
        "workers/relay_workers/asking/answer_request.py",
        [Change("        await self._lease.held()\n", "")],
        [],
        [_ANSWER + "a_worker_without_its_lease_asks_nobody_until_it_knows"],
    ),
    Mutant(
        "a lost worker's call that is gone on with unproved",
        "workers/relay_workers/writing/flusher.py",
        [Change('raise Diverged("another text")', "pass")],
        [],
        [_RESUMING + "of_another_text_as_long_nothing_is_written_behind_what_was_left"],
    ),
    Mutant(
        "a loss that the flusher takes for written",
        "workers/relay_workers/writing/flusher.py",
        [
            Change("                    self.rebuild()\n                    return False\n",
                   "                    return True\n"),
        ],
        [],
        [_REBUILDING + "everything_is_lost_in_the_middle_and_all_of_it_is_said_again"],
    ),
    Mutant(
        "a rebuild of a job that only its worker knows of",
        "workers/relay_workers/writing/rebuilding.py",
        [Change("        await self._queue.enqueue(job, self._limits.look_ms, held=True)\n", "")],
        [],
        [_REBUILDING + "the_jobs_row_is_back_before_the_generation_is_made_again"],
    ),
    Mutant(
        "a provider that is read without a bound",
        "workers/relay_workers/providers/network.py",
        [Change("            self._transport.pause_reading()\n", "")],
        [],
        ["tests/workers/providers/test_network.py::test_a_server_that_sends_more_than_is_read_has_to_wait"],
    ),
    Mutant(
        "a stream that gives nobody a turn",
        "workers/relay_workers/asking/call.py",
        [Change(" or parts_taken >= _PARTS_PER_TURN:", ":")],
        [],
        ["tests/workers/test_generation.py::test_parts_without_text_stop_neither_the_others_nor_the_deadline"],
    ),
    Mutant(
        "a flusher that tokens do not wake",
        "workers/relay_workers/writing/flusher.py",
        [Change("            self._wake_when_due()\n\n    def data(", "            pass\n\n    def data(")],
        [],
        [_FLUSHER + "whatever_makes_a_batch_due_while_the_flusher_waits_is_enough"],
    ),
    Mutant(
        "appends that are counted on after a rebuild",
        "workers/relay_workers/writing/flusher.py",
        [Change('                self._delivery.reset()\n', '')],
        [],
        [_REBUILDING + "what_is_left_is_not_said_again"],
    ),
    Mutant(
        "a breaker that nothing opens",
        "workers/relay_workers/asking/breaker.py",
        [Change("elif self._in_a_row >= self._failures or", "elif")],
        [_FAILOVER + "a_sick_provider_is_passed_over_and_everybody_can_see_that"],
        [],
    ),
    Mutant(
        "a timeout that counts how late we are ourselves",
        "relay/timeouts.py",
        [Change("passed_s if passed_s <= _LATE_S else TICK_S", "passed_s")],
        [],
        [
            _TIMEOUTS + "turns_that_each_take_long_count_as_short_ones",
            _POOL + "a_loop_that_is_always_busy_loses_no_reply",
        ],
    ),
    Mutant(
        "an idle connection that is trusted",
        "relay/redis/pool.py",
        [Change("if connection.fresh or await self._answers(connection):", "if not connection.lost:")],
        [_IDLE + "a_firewall_that_drops_idle_connections_without_a_word_costs_no_submit"],
        [
            _POOL + "a_connection_that_was_closed_while_it_was_idle_costs_no_command",
            _POOL + "a_connection_that_was_dropped_without_a_word_while_it_was_idle_costs_no_command",
        ],
    ),
    Mutant(
        "a worker whose leases live in its loop alone",
        "workers/relay_workers/lease_thread.py",
        [Change("[lease for lease in list(self._leases) if lease.is_late]", "list[Lease]()")],
        [_SATURATED + "a_generator_that_blocks_the_loop_for_longer_than_the_lease_is_called_once"],
        ["tests/workers/test_lease_thread.py::test_a_lease_is_renewed_while_the_loop_is_blocked_for_longer_than_it_lasts"],
    ),
    Mutant(
        "a window that takes in what does not follow on",
        "relay/follow/window.py",
        [Change("if self._entries and seq != self._entries[-1][0] + 1:", "if False:")],
        [],
        ["tests/follow/test_window.py::test_what_does_not_follow_on_is_refused"],
    ),
    Mutant(
        "a look that goes by what was newest before its read",
        "relay/follow/follower.py",
        [Change("if self.frontier == asked and newest is None", "if newest is None")],
        [],
        [
            _MOVED + "who_comes_after_a_look_that_messages_have_overtaken_gets_each_event_in_its_place",
            _MOVED + "an_event_too_large_for_the_window_that_overtakes_a_look_is_no_loss",
        ],
    ),
    Mutant(
        "a follower that is lent as it is",
        "relay/gateway/follower_pool.py",
        [Change("if not is_new:", "if False:")],
        ["tests/scenarios/delivery/test_distance.py::test_nobody_who_comes_after_an_answered_delete_is_shown_what_was_deleted"],
        [_HUB + "who_comes_after_a_delete_elsewhere_is_not_lent_the_follower_of_what_was_deleted"],
    ),
    Mutant(
        "a live stream of what has ended meanwhile",
        "relay/gateway/event_stream.py",
        [Change("self._cursor is not None or self._awaits(follower):", "True:")],
        [],
        ["tests/gateway/test_event_stream.py::test_what_ends_while_its_live_stream_begins_has_nothing_live"],
    ),
    Mutant(
        "pages of a log that was trimmed between them",
        "relay/follow/replay.py",
        [Change("if not segment.version.continues(self.version, after):", "if False:")],
        [],
        [_MOVED + "pages_from_before_and_after_a_trim_are_not_joined_though_the_floor_has_not_moved"],
    ),
    Mutant(
        "a deleted answer that is missed for ever",
        "relay/follow/recovery.py",
        [Change('case "deleted":\n                pass', 'case "deleted":\n                return')],
        [],
        [_HUB + "an_answer_deleted_elsewhere_after_its_epoch_had_changed_unseen_is_missed_no_more"],
    ),
    Mutant(
        "a look out of sight while it waits for its turn",
        "relay/follow/visibility.py",
        [Change("else max(self._trying_at, self._answered_at())", "else self._trying_at")],
        [],
        [
            "tests/redis/test_read_limiter.py::test_a_subscription_that_is_lost_for_many_sessions_makes_nobody_degraded",
            "tests/follow/test_visibility.py::test_while_others_are_answered_nobody_is_told",
        ],
    ),
    Mutant(
        "a retry that is replaced by what it retries",
        "relay/store/session/lua/generation.lua",
        [Change("      if is_newer(other, generation) then return end\n", "")],
        [],
        [_END + "a_retry_that_ends_before_what_it_retries_stays_the_answer"],
    ),
    Mutant(
        "an end that is no such event",
        "relay/store/session/lua/generation.lua",
        [Change(""","text_bytes":' .. bytes""", ""","bytes":' .. bytes""")],
        [],
        ["tests/store/test_events_of_scripts.py::test_what_each_script_writes_is_an_event_and_nothing_more"],
    ),
    Mutant(
        "a merged piece that is no such event",
        "relay/store/session/lua/range.lua",
        [Change(""","count":' .. count .. ',"text\"""", ""","tokens":' .. count .. ',"text\"""")],
        [],
        ["tests/store/test_events_of_scripts.py::test_what_range_puts_together_is_an_event_and_nothing_more"],
    ),
    Mutant(
        "a generation that is made without a field",
        "relay/store/session/lua/generation.lua",
        [Change("'reasoned', 0, 'data', 0, 'bytes', 0,", "'reasoned', 0, 'bytes', 0,")],
        [],
        [
            "tests/store/session/test_new_generation.py::"
            "test_each_way_to_make_a_generation_stores_every_field_of_a_new_one",
        ],
    ),
    Mutant(
        "a question that goes with its first answer",
        "relay/store/session/lua/admit.lua",
        [Change("entry[2][2] == old and entry[1] ~= kept then", "entry[2][2] == old then")],
        [],
        ["tests/store/session/test_admit.py::test_a_retry_keeps_its_question_when_what_it_retries_is_forgotten"],
    ),
    Mutant(
        "a refusal for want of room that is not final",
        "relay/store/session/lua/admit.lua",
        [Change("redis.call('ZSCORE', KEY.refused, generation) or ", "")],
        [],
        [
            "tests/store/session/test_admit.py::test_what_was_refused_for_want_of_room_is_never_admitted_later",
            "tests/store/queue/test_enqueue.py::test_a_job_that_another_has_dropped_for_want_of_room_is_not_accepted_any_more",
        ],
    ),
    Mutant(
        "a gateway that does not look for its row again",
        "relay/store/queue/enqueue.py",
        [Change("            if admitted.fresh:\n", "            if False:\n")],
        [],
        ["tests/store/queue/test_enqueue.py::test_a_job_that_is_lost_before_it_is_admitted_has_its_row_again"],
    ),
    Mutant(
        "a worker that does not look for a row again",
        "workers/relay_workers/generation.py",
        [Change("                if self._claim.fresh:\n", "                if False:\n")],
        [],
        [_CONSUMER + "a_job_that_redis_loses_between_take_and_admit_has_a_row_while_it_runs"],
    ),
    Mutant(
        "a take that is cancelled with what it was handed",
        "workers/relay_workers/consumer.py",
        [Change("            return await asyncio.shield(taking)\n", "            return await taking\n")],
        [_GOING + "what_a_take_brings_to_a_worker_that_goes_is_answered_by_another"],
        [_CONSUMER + "what_a_take_has_brought_as_its_worker_goes_is_there_for_the_next_at_once"],
    ),
    Mutant(
        "a claim that is cancelled with its lease",
        "workers/relay_workers/consumer.py",
        [Change("            claim = await asyncio.shield(claiming)\n", "            claim = await claiming\n")],
        [_GOING + "a_claim_of_a_worker_that_goes_is_released_and_no_lost_worker"],
        [_CONSUMER + "what_was_claimed_as_its_worker_goes_is_given_back_and_no_worker_is_lost"],
    ),
    Mutant(
        "a worker that takes the reply to its last try for all that it has done",
        "workers/relay_workers/consumer.py",
        [Change("fresh=claim.fresh or in_doubt", "fresh=claim.fresh")],
        [],
        [_CONSUMER + "a_job_that_redis_has_lost_has_a_row_also_if_the_first_reply_to_its_worker_is_lost"],
    ),
    Mutant(
        "a reaper that believes every step of Redis' clock",
        "relay/store/queue/reaper.py",
        [Change("if steps.note(asked_at, self._clock(), due.now_ms, policy.lease_s / 3):", "if False:")],
        [
            _CLOCK_STEPS + "an_answer_that_waits_for_its_first_token_is_still_its_workers",
            _CLOCK_STEPS + "a_question_that_waits_for_a_worker_still_gets_one",
        ],
        [
            "tests/store/queue/test_reaper.py::test_an_answer_that_waits_for_its_first_token_outlives_a_step_of_redis_clock",
            "tests/store/queue/test_reaper.py::test_a_job_waits_its_time_for_a_worker_whatever_redis_clock_skips",
        ],
    ),
    Mutant(
        "a duplicate of nothing",
        "relay/gateway/submissions.py",
        [
            Change(
                "elif await self._session_log.is_forgotten(submit.session, submit.request_id, generation):",
                "elif False:",
            )
        ],
        [],
        ["tests/gateway/test_submissions.py::test_a_submit_whose_answer_is_not_kept_any_more_is_not_found"],
    ),
    Mutant(
        "an iterator of theirs that is asked for unguarded",
        "workers/relay_workers/providers/app.py",
        [
            Change("            return aiter(theirs)\n        except BaseException as error:  # also",
                   "        except BaseException as error:  # also"),
            Change(" from None\n\n    async def _next(",
                   " from None\n        return aiter(theirs)\n\n    async def _next("),
        ],
        [],
        ["tests/workers/providers/test_app.py::test_whatever_python_asks_of_theirs_may_fail"],
    ),
    Mutant(
        "a file of an app that takes the name of another module",
        "workers/relay_workers/providers/app_loading.py",
        [Change("@{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}", "")],
        [],
        ["tests/workers/providers/test_app.py::test_a_file_is_found_whatever_it_is_called_and_so_are_its_siblings",
         "tests/workers/providers/test_app.py::test_two_files_of_one_name_are_two_modules_and_one_file_is_one"],
    ),
    Mutant(
        "an old import that stands before what the user has",
        "workers/relay_workers/providers/old_import.py",
        [Change("sys.meta_path.append(finder)", "sys.meta_path.insert(0, finder)")],
        [],
        ["tests/workers/providers/test_old_import.py::test_a_package_of_theirs_with_an_app_wins_wherever_it_is_on_the_path",
         "tests/workers/providers/test_old_import.py::test_it_stands_last_and_once_and_not_at_all_under_the_real_name"],
    ),
    Mutant(
        "an old import that changes the module it stands for",
        "workers/relay_workers/providers/old_import.py",
        [Change("sys.modules[self._module] = importlib.import_module(self._ours)",
                "vars(module).update(vars(importlib.import_module(self._ours)))")],
        [],
        ["tests/workers/providers/test_old_import.py::test_the_old_import_gives_the_same_module_and_one_line_that_names_the_place"],
    ),
    Mutant(
        "a worker that ends with whoever exits in a task of theirs",
        "workers/relay_workers/event_loop.py",
        [Change("                if running.done():\n                    break", "                raise")],
        [],
        ["tests/workers/test_event_loop.py::test_an_exit_in_a_task_or_callback_ends_nothing_and_nothing_is_lost"],
    ),
    Mutant(
        "a busy worker that blames who takes the connection",
        "workers/relay_workers/providers/network.py",
        [
            Change(
                "            async with timeouts.timeout(timeout):\n                _, connection",
                "            async with asyncio.timeout(0.3):\n                _, connection",
            )
        ],
        [],
        ["tests/workers/providers/test_providers.py::test_a_server_that_takes_the_connection_is_reached_however_busy_we_are"],
    ),
    Mutant(
        "a living folder that is taken for a dead one's",
        "relay/private_folder.py",
        [Change("        if _locked(lock) and _is_still(path, lock):", "        if True:")],
        [],
        [_FOLDER + "two_that_live_side_by_side_leave_each_other_alone_and_the_killed_one_goes"],
    ),
    Mutant(
        "a folder that is gone before it is locked",
        "relay/private_folder.py",
        [Change(" and _is_still(path, lock):", ":")],
        [],
        [_FOLDER + "an_owner_whose_folder_is_gone_when_it_has_the_lock_makes_another"],
    ),
    Mutant(
        "a worker that a closed terminal kills",
        "relay/stop_signals.py",
        [Change("        numbers.append(signal.SIGHUP)", "        pass")],
        ["tests/scenarios/commands/test_terminal_closed.py::test_a_worker_finishes_what_it_says"],
        ["tests/test_stop_signals.py::test_a_worker_finishes_at_the_first_and_hands_over_at_the_second"],
    ),
    Mutant(
        "a log that a closed terminal breaks",
        "relay/logging.py",
        [Change('cast(TextIO, _LossyStream(sys.stderr))', 'sys.stderr')],
        ["tests/scenarios/commands/test_terminal_closed.py::test_relay_dev_ends_and_leaves_nothing_behind"],
        ["tests/test_logging.py::test_a_log_that_nobody_reads_any_more_breaks_nothing"],
    ),
    Mutant(
        "a claim by the first event goes unheard",
        "relay/follow/follower.py",
        [Change('self._request_sync("owner")', 'pass')],
        [],
        [_FOLLOWED_OWNER + "it_learns_of_a_claim_with_the_first_event_and_the_session_stays_the_owners_after_a_loss"],
    ),
    Mutant(
        "what was shown of nobody's goes on in somebody's",
        "relay/follow/follower.py",
        [Change('(self.sub != "" or was_shown)', 'self.sub != ""')],
        [],
        [_FOLLOWED_OWNER + "what_was_shown_of_nobodys_never_goes_on_in_what_is_somebodys_after_a_loss"],
    ),
    Mutant(
        "what came back and ended unheard is missed for ever",
        "relay/follow/follower.py",
        [Change('            self.missing.reloaded(self.active)\n', '')],
        [],
        ["tests/follow/test_lost.py::test_one_that_is_back_and_then_ends_and_goes_unheard_is_missed_no_more"],
    ),
    Mutant(
        "a dropped connection takes fresh ones along",
        "relay/redis/pool.py",
        [Change('            self._close_stale()', '            self.close_idle()')],
        [],
        [_POOL + "one_that_was_dropped_takes_none_along_that_were_heard_of_since"],
    ),
    Mutant(
        "a frame that waits for an acknowledgement",
        "relay/gateway/server.py",
        [Change("socket.TCP_NODELAY, 1)", "socket.TCP_NODELAY, 0)")],
        ["tests/scenarios/gateway/test_accepted_connections.py::test_a_frame_waits_for_no_acknowledgement_of_the_one_before"],
        [],
    ),
    Mutant(
        "chunk sizes for HTTP/1.0",
        "relay/gateway/http_protocol.py",
        [Change('            app = _without_chunks(app, cycle)\n', "")],
        [],
        [_HTTP + "who_does_not_speak_http_1_1_gets_the_body_as_it_is_and_its_end_is_the_end"],
    ),
    Mutant(
        "an upgrade to HTTP/2 that costs the request its body",
        "relay/gateway/http_protocol.py",
        [Change("        return asked and any(", "        return not asked and any(")],
        [],
        [_HTTP + "an_upgrade_to_anything_else_is_as_if_nobody_had_asked_for_it"],
    ),
    Mutant(
        "the first of two hosts",
        "relay/gateway/origin_check.py",
        [Change("if len(headers.getlist(name)) > 1:", "if len(headers.getlist(name)) > 9:")],
        [],
        [_GUARD + "two_hosts_or_origins_are_refused_whatever_they_say"],
    ),
    Mutant(
        "CORS headers at the addresses that are open to all",
        "relay/gateway/origin_check.py",
        [Change("if origin is not None and is_allowed and scope", "if origin is not None and scope")],
        [],
        [_GUARD + "who_is_let_in_and_gets_the_headers_that_pages_of_other_origins_need"],
    ),
    Mutant(
        "a wildcard for any number of labels",
        "relay/origins.py",
        [Change('label, _, rest = name.partition(".")', 'label, _, rest = "a", "", ".".join(name.split(".")[-3:])')],
        [],
        ["tests/test_origins.py::test_an_origin_is_allowed_that_was_named_and_no_other"],
    ),
    Mutant(
        "a page that asks for its module at the root",
        "relay/static/relay-client.js",
        [Change('new URL(".", import.meta.url)', 'new URL("/", import.meta.url)')],
        [],
        ["tests/static/test_address.py::test_addresses_are_under_the_path_that_they_were_given"],
    ),
    Mutant(
        "a gateway on whatever loop is installed",
        "relay/gateway/server.py",
        [Change("        loop=settings.loop,", "        loop='auto',")],
        ["tests/scenarios/gateway/test_event_loops.py::test_a_gateway_answers_on_the_loop_that_was_asked_for"],
        [],
    ),
    Mutant(
        "an unserved queue is told of by whoever sees it",
        "relay/store/session/lua/unserved.lua",
        [Change("if state[3] then return { 'told' } end", "")],
        [],
        [_UNSERVED + "of_several_that_tell_it_at_once_one_writes_it"],
    ),
    Mutant(
        "an unserved queue is told of though the answer was claimed",
        "relay/store/session/lua/unserved.lua",
        [Change("if state[1] ~= 'queued' or state[2] then return { 'claimed' } end", "")],
        [],
        [_UNSERVED + "the_script_decides_what_has_become_of_it_meanwhile"],
    ),
    Mutant(
        "an unserved queue as it was when the page was read",
        "relay/store/queue/reaper.py",
        [Change("if not is_silent(await self._queue.silent_ms(queue)):", "if await self._queue.silent_ms(queue) < 0:")],
        [],
        [_UNSERVED + "a_worker_that_comes_while_a_page_is_looked_at_is_seen"],
    ),
    Mutant(
        "an unserved queue is believed at first sight",
        "relay/store/queue/unserved.py",
        [Change("SURE_S = 2.0", "SURE_S = 0.0")],
        [],
        [_UNSERVED + "a_step_of_redis_clock_makes_no_worker_absent"],
    ),
    Mutant(
        "an unserved queue in the first moment of a process",
        "relay/store/queue/reaper.py",
        [Change('self._clock(), max(self._last_outage_at, self._began_at))', 'self._clock(), self._last_outage_at)')],
        [],
        [_UNSERVED + "a_process_that_starts_lets_workers_start_too"],
    ),
    Mutant(
        "an unserved queue that nobody ever served",
        "relay/store/queue/lua/due.lua",
        [Change("  redis.call('SET', QUEUE.served, '?' .. digits(now), 'PX', ARGV[4])", "")],
        [],
        [_UNSERVED + "a_queue_that_nobody_ever_served_is_told_of_once_within_the_contracts_time"],
    ),
    Mutant(
        "a drain that waits for what was answered before its first step",
        "relay/gateway/connection.py",
        [Change("await asyncio.wait(asked, timeout", "await asyncio.wait(set(self._tasks), timeout")],
        [],
        ["tests/gateway/test_connection.py::test_a_drain_closes_whenever_the_last_answer_is_given"],
    ),
    Mutant(
        "an unserved queue whose mark Redis lost has a worker",
        "relay/store/queue/unserved.py",
        [Change("        elif heard:\n", "        else:\n")],
        [],
        [_UNSERVED + "a_mark_that_redis_loses_is_no_worker_that_came"],
    ),
    Mutant(
        "an upgrade that nobody has heard of ends the conversation",
        "relay/gateway/http_protocol.py",
        [Change("            self.parser = httptools.HttpRequestParser(self)\n", "")],
        [],
        [_HTTP + "whoever_asks_for_an_upgrade_and_for_the_end_of_the_connection_gets_an_answer"],
    ),
    Mutant(
        "an unserved queue that is looked at when a long lease says",
        "relay/store/queue/policy.py",
        [Change("self.queue_timeout_ms, 2 * MAX_LOOK_MS", "self.queue_timeout_ms")],
        [],
        [_UNSERVED + "so_is_one_whose_worker_died_whatever_its_lease"],
    ),
    Mutant(
        "an unserved queue is a line for every round",
        "relay/store/queue/reaper.py",
        [Change("sorted(unserved & busy - self._reported)", "sorted(unserved & busy)")],
        [],
        [_UNSERVED + "an_outage_is_one_line_of_each_gateway_and_one_when_a_worker_is_back"],
    ),
    Mutant(
        "a browser client that hears no error of its WebSocket",
        "relay/static/relay-client.js",
        [Change("    socket.onerror = ours(", "    void (")],
        [],
        [_IN_NODE + "an_open_connection_that_fails_without_a_close_is_given_up_soon"],
    ),
    Mutant(
        "a session that was refused for want of room waits for ever",
        "relay/static/relay-client.js",
        [Change("    if (takes) this._begin();\n", "")],
        ["tests/scenarios/clients/test_browser_client.py::"
         "test_a_session_beyond_the_limit_is_followed_once_another_is_left_or_deleted"],
        [_IN_NODE + "a_session_beyond_the_limit_is_refused_visibly_and_followed_once_there_is_room"],
    ),
    Mutant(
        "a browser client that goes by a number of its own",
        "relay/static/relay-client.js",
        [Change("const BACKOFF_MOST_MS = 10_000;", "const BACKOFF_MOST_MS = 5_000;")],
        [],
        ["tests/client/test_constants.py::test_the_browser_client_holds_the_shared_numbers"],
    ),
    Mutant(
        "a Python client that goes by a number of its own",
        "relay/client/transport.py",
        [Change("_now() + SHARED.stable_after_s", "_now() + 2.5")],
        [],
        ["tests/client/test_constants.py::test_the_python_client_reads_all_of_them"],
    ),
    Mutant(
        "a Python client that asks for tokens without end",
        "relay/client/tokens.py",
        [Change(" and self._refusals == 1", "")],
        [],
        [_CLIENT_TOKENS + "a_second_token_that_is_refused_is_the_end",
         _CLIENT_TOKENS + "tokens_that_are_welcomed_and_at_once_refused_are_not_asked_for_in_a_loop"],
    ),
    Mutant(
        "a library that logs handshakes with their tokens",
        "relay/client/transport.py",
        [Change("            logger=_LOGGER,\n", "")],
        [],
        [_CLIENT_TOKENS + "no_library_logs_a_token"],
    ),
    Mutant(
        "a browser client that asks for tokens without end",
        "relay/static/relay-client.js",
        [Change(' || this.#refusals > 1;', ";")],
        [],
        [_TOKENS_IN_NODE + "a_second_token_that_is_refused_is_the_end",
         _TOKENS_IN_NODE + "tokens_that_are_welcomed_and_at_once_refused_are_not_asked_for_in_a_loop"],
    ),
    Mutant(
        "a browser client that speaks before its token is there",
        "relay/static/relay-client.js",
        [Change("this.#welcomed && this.#socket?.readyState === 1", "this.#socket?.readyState === 1")],
        [],
        [_TOKENS_IN_NODE + "nothing_is_said_before_a_token_that_is_late"],
    ),
    Mutant(
        "a trouble told after it was over",
        "relay/static/relay-client.js",
        [Change('outage !== this.#outage || this.state === "closed" || ', "")],
        [],
        [_IN_NODE + "a_trouble_that_was_over_before_it_was_known_is_not_told"],
    ),
    Mutant(
        "a terminal that does what a model says",
        "relay/commands/terminal.py",
        [Change('self._put(escape_controls(text) if self._terminal else text)', 'self._put(text)')],
        [],
        ["tests/commands/test_terminal.py::test_no_control_character_of_a_text_reaches_a_terminal"],
    ),
    Mutant(
        "a deletion that passes for a stop",
        "relay/commands/send.py",
        [Change("if not self._stop.is_set() and await _is_deleted(relay, answer):", "if False:")],
        ["tests/scenarios/commands/test_send.py::test_an_answer_whose_session_is_deleted_says_so_and_fails"],
        ["tests/commands/test_send.py::test_an_answer_that_others_ended_was_stopped_or_went_with_its_session"],
    ),
    Mutant(
        "a refusal that nobody hears of",
        "relay/client/subscription.py",
        [Change('return "refused" if self._refusal is not None else', "return")],
        [],
        ["tests/client/test_status.py::test_a_submit_that_waits_tells_what_for_each_time_that_this_changes",
         "tests/client/test_status.py::test_a_following_that_a_new_gateway_does_not_take_says_so"],
    ),
    Mutant(
        "a right that is missing is a slot on its way",
        "relay/store/scripts.py",
        [Change("  if denied(found) then return found end\n", "")],
        [],
        [_RIGHTS + "what_meets_a_right_that_is_missing_names_it"],
    ),
    Mutant(
        "a group that may not be made is not there",
        "relay/store/queue/lua/prelude.lua",
        [Change("  if denied(reply) then error(reply.err, 0) end\n", "")],
        [],
        [_RIGHTS + "a_group_that_may_not_be_made_is_no_group_that_is_not_there"],
    ),
    Mutant(
        "a start without the rights that it takes",
        "relay/store/requirements.py",
        [Change('        await require_rights(server, prefix, sharded=sharded)\n', '        pass\n')],
        [],
        [_RIGHTS + "a_right_that_is_missing_is_named_before_a_start"],
    ),
    Mutant(
        "a line for each request that is none",
        "relay/logging.py",
        [Change("            is_due = now - logged_at >= self._every_s\n", "            is_due = True\n")],
        [],
        [
            "tests/test_logging.py::test_what_anybody_can_cause_is_a_line_a_minute_with_a_count",
            "tests/gateway/test_http_protocol.py::test_what_is_no_request_is_counted_and_said_once_a_minute_without_a_byte_of_it",
        ],
    ),
    Mutant(
        "a stream that is cut is an error of ours",
        "relay/gateway/http_protocol.py",
        [Change("self._answering.disconnected = True", "pass")],
        [],
        ["tests/gateway/test_http_protocol.py::test_a_stream_that_is_cut_is_no_error_of_the_application"],
    ),
    Mutant(
        "a command that is declared and nothing else",
        "relay/protocol/commands.py",
        [Change("class Unsubscribe(", 'class Pause(msgspec.Struct, tag="pause"):\n    pass\n\n\nclass Unsubscribe(')],
        [],
        [_DOCUMENTED + "the_commands_are_these"],
    ),
    Mutant(
        "a priority that is declared and nothing else",
        "relay/protocol/words.py",
        [Change('Priority = Literal["high", ', 'Priority = Literal["urgent", "high", ')],
        [],
        [
            _DOCUMENTED + "a_field_of_a_submit_has_these_words_and_this_default",
            "tests/protocol/test_words_elsewhere.py::test_the_browser_clients_types_have_the_same_words",
        ],
    ),
    Mutant(
        "a priority that no worker looks for",
        "relay/protocol/words.py",
        [Change("= get_args(Priority)", '= ("high", "normal")')],
        [],
        ["tests/store/queue/test_queue.py::test_jobs_are_taken_by_priority_and_within_one_in_order"],
    ),
    Mutant(
        "a provider that is on offer and cannot be made",
        "relay/settings.py",
        [Change('"agent", "app", "demo"]', '"agent", "app", "demo", "parrot"]')],
        [],
        ["tests/workers/providers/test_providers.py::test_each_provider_is_made_under_its_name"],
    ),
    Mutant(
        "an event that a branch passes over in silence",
        "relay/follow/follower.py",
        [Change("                assert_never(kind)\n", "                pass\n")],
        [],
        ["tests/test_half_done.py::test_mypy_finds_every_place_that_a_new_member_concerns"],
    ),
    Mutant(
        "an end that the protocol does not know",
        "relay/store/session/lua/generation.lua",
        [Change('"total":', '"whole":')],
        [],
        [_END + "whichever_script_ends_an_answer_writes_an_end_as_the_protocol_has_it"],
    ),
    Mutant(
        "a default that the documents tell otherwise",
        "relay/protocol/commands.py",
        [Change('queue: str = "default"', 'queue: str = "main"')],
        [],
        [_DOCUMENTED + "a_field_of_a_submit_has_these_words_and_this_default"],
    ),
    Mutant(
        "a frame that says more than the documents",
        "relay/protocol/frames.py",
        [Change("    reconnect_in_ms: int\n", '    reconnect_in_ms: int\n    why: str = ""\n')],
        [],
        [_DOCUMENTED + "a_frame_has_these_fields"],
    ),
    Mutant(
        "a log event that no document has",
        "relay/store/queue/reaper.py",
        [Change('logger.info("queue_served"', 'logger.info("queue_is_served"')],
        [],
        ["tests/test_logging.py::test_the_documents_have_every_event_of_the_log_and_no_other"],
    ),
    Mutant(
        "a later release: its fields of a job are dropped",
        "relay/store/jobs.py",
        [Change("    return job if _encode(job) == body else", "    return job if True else")],
        [],
        [
            _JOBS + "what_is_not_known_here_is_ignored_and_goes_on_byte_for_byte",
            _JOBS + "what_lies_deeper_goes_on_too",
            _JOBS + "what_is_changed_here_is_changed_and_nothing_else",
            _RELEASES + "a_job_that_is_put_back_says_all_that_it_said",
            _RELEASES + "a_retry_asks_with_all_that_was_asked_with",
        ],
    ),
    Mutant(
        "a later release: its job is made half",
        "relay/store/jobs.py",
        [Change(" if version <= shapes.JOB else None", "")],
        [],
        [
            _JOBS + "a_job_that_takes_a_later_release_to_make_is_left_to_it",
            _RELEASES + "its_entry_stays_for_a_worker_that_can_make_it",
        ],
    ),
    Mutant(
        "a later release: its job is nobody's",
        "relay/store/queue/reaper.py",
        [Change("if isinstance(error, LaterJob) and self._is_left(name, policy):", "if False:")],
        [],
        [
            _RELEASES + "a_reaper_lets_those_of_the_later_release_admit_it",
            _RELEASES + "a_reaper_makes_it_a_letter_when_nobody_has_admitted_it_in_time",
        ],
    ),
    Mutant(
        "a later release: its job is lost with its row",
        "relay/store/queue/reaper.py",
        [Change("        except LaterJob:\n", "        except KeyError:\n")],
        [],
        [_RELEASES + "its_answer_is_not_lost_with_its_row"],
    ),
    Mutant(
        "a later release: its stop is not understood",
        "workers/relay_workers/consumer.py",
        [Change('rest.partition(" ")[0]', "rest")],
        [],
        [_RELEASES + "a_worker_is_told_to_stop_whatever_else_a_later_release_says"],
    ),
    Mutant(
        "a stored field more, and no version",
        "relay/store/session/lua/append.lua",
        [Change("'n', n, 'reply', seq, 'lease', lease)", "'n', n, 'reply', seq, 'at', seq, 'lease', lease)")],
        [],
        [_SHAPES + "what_is_stored_has_the_shape_of_its_version"],
    ),
    Mutant(
        "a job's field more, and no version",
        "relay/store/jobs.py",
        [Change("    v: int = 1\n    as_it_came", "    title: str = ''\n    v: int = 1\n    as_it_came")],
        [],
        [_SHAPES + "what_is_stored_has_the_shape_of_its_version"],
    ),
    Mutant(
        "options: a submit's yield to the defaults",
        "relay/protocol/options.py",
        [
            Change(
                "replace(defaults, **msgspec.to_builtins(options))",
                "replace(options, **msgspec.to_builtins(defaults))",
            )
        ],
        [],
        [
            _OPTIONS + "what_is_asked_for_goes_before_the_defaults_member_by_member",
            _ANSWER + "each_provider_is_asked_with_its_own_options_beneath_the_submits",
        ],
    ),
    Mutant(
        "options: a provider's defaults go on to the next one",
        "workers/relay_workers/asking/answer_request.py",
        [
            Change(
                "return await self._call(self.slot.provider.stream(self.slot.prompt(question)))",
                "question = self.slot.prompt(question)\n"
                "                return await self._call(self.slot.provider.stream(question))",
            )
        ],
        [],
        [_ANSWER + "each_provider_is_asked_with_its_own_options_beneath_the_submits"],
    ),
    Mutant(
        "options: none are others than no options",
        "relay/protocol/options.py",
        [Change("msgspec.convert(members, Options) if members else None", "msgspec.convert(members, Options)")],
        [],
        [_OPTIONS + "a_body_without_options_keeps_its_hash"],
    ),
    Mutant(
        "options: unknown ones vanish in silence",
        "relay/protocol/commands.py",
        [Change('unknown_options(fields.get("options"))', "unknown_options(None)")],
        ["tests/scenarios/providers/test_agent.py::test_every_viewer_has_an_agents_long_answer_and_its_finish"],
        [_OPTIONS + "unknown_options_are_named_among_what_was_ignored"],
    ),
    Mutant(
        "reading: a finish counts although text follows it",
        _PROVIDERS + "reading.py",
        [Change("        elif not has_text:\n", "        else:\n")],
        [],
        [_READING + "a_finish_counts_while_no_text_follows_it"],
    ),
    Mutant(
        "reading: nothing shows that finishes come early",
        _PROVIDERS + "reading.py",
        [Change("self.early, self._stands_alone = True, False", "self._stands_alone = False")],
        [],
        [_READING + "a_finish_counts_while_no_text_follows_it"],
    ),
    Mutant(
        "reading: what fails after the finish fails the answer",
        _PROVIDERS + "reading.py",
        [Change("if self.is_settled or (pending", "if (pending")],
        [],
        [_READING + "what_fails_after_the_finish_costs_nothing_but_after_more_text_it_does"],
    ),
    Mutant(
        "reading: half an event at the end is malformed",
        _PROVIDERS + "reading.py",
        [Change("or (pending and isinstance(error, Malformed))", "")],
        [],
        [_READING + "half_an_event_at_the_end_is_a_cut_and_no_malformed_event"],
    ),
    Mutant(
        "reading: [DONE] is always a finish",
        _PROVIDERS + "openai_reading.py",
        [Change("None and self._done_ends and self._has_said", "None and self._has_said")],
        [],
        [_READING + "done_alone_ends_an_answer_where_that_is_set_and_something_was_said"],
    ),
    Mutant(
        "reading: the whole answer once more in the last event is text again",
        _PROVIDERS + "openai_reading.py",
        [Change("                self._body = name\n", "                self._body = \"\"\n")],
        [],
        [_READING + "an_answers_text_comes_from_one_member"],
    ),
    Mutant(
        "event stream: CR and LF in two chunks are two ends of lines",
        _PROVIDERS + "event_stream.py",
        [Change('self._after_cr = chunk.endswith(b"\\r")', "self._after_cr = False")],
        [],
        [_EVENT_STREAM + "the_rules_hold_however_the_bytes_are_split"],
    ),
    Mutant(
        "event stream: a line may be endless",
        _PROVIDERS + "event_stream.py",
        [Change("if self._line_bytes + self._data_bytes +", "if self._data_bytes +")],
        [],
        [_EVENT_STREAM + "a_line_that_never_ends_is_refused_before_it_fills_memory"],
    ),
    Mutant(
        "a request: blank turns are sent",
        "workers/relay_workers/providers/turns.py",
        [Change(" if turn is question or turn.content.strip()]", "]")],
        [],
        [
            "tests/workers/asking/test_history.py::test_a_session_with_an_answer_without_text_goes_on",
            _REQUEST + "turns_come_as_the_server_takes_them_without_blank_ones",
        ],
    ),
    Mutant(
        "a request: roles in any order",
        "workers/relay_workers/providers/openai_request.py",
        [Change('    elif "roles" in refused:', "    elif False:")],
        [],
        [
            _REQUEST + "turns_come_as_the_server_takes_them_without_blank_ones",
            _ADAPTER + "an_answer_comes_all_the_same_and_the_next_one_at_the_first_try",
        ],
    ),
    Mutant(
        "a request: a refusal is believed before the next try is accepted",
        "workers/relay_workers/providers/request_adapter.py",
        [
            Change(
                "                dropped[refused.parameter] = refused.lasting\n",
                "                dropped[refused.parameter] = refused.lasting\n"
                "                self._learn(model, [*dropped])\n",
            )
        ],
        [],
        [
            _ADAPTER + "nothing_is_learned_if_the_request_is_refused_all_the_same",
            _ADAPTER + "a_value_that_does_not_fit_is_left_out_of_this_call_only",
        ],
    ),
    Mutant(
        "a request: a limit that is too large is taken for one that is unknown",
        "workers/relay_workers/providers/refused_parameters.py",
        [Change("and (not unsupported or out_of_range):", "and not unsupported:")],
        [],
        ["tests/workers/providers/test_refused_parameters.py::test_anything_else_is_the_questions_own_error"],
    ),
    Mutant(
        "a provider's error: its body is waited for",
        "workers/relay_workers/providers/access.py",
        [Change("timeouts.timeout(ERROR_BODY_S), aclosing", "timeouts.timeout(None), aclosing")],
        [],
        [_ACCESS + "an_error_status_counts_though_its_body_never_ends"],
    ),
    Mutant(
        "a provider's error: its body is unpacked whole",
        "workers/relay_workers/providers/access.py",
        [Change("                if len(body) >= MAX_ERROR_BYTES:\n", "                if False:\n")],
        [],
        [_ACCESS + "the_body_of_an_error_is_unpacked_only_so_far"],
    ),
    Mutant(
        "a provider's error: its charset is obeyed",
        "workers/relay_workers/providers/access.py",
        [Change('"content-type", "").partition(";")[0]\n    if', '"content-type", "")\n    if')],
        [],
        [_ACCESS + "a_charset_cannot_choose_how_the_body_of_an_error_is_decoded"],
    ),
    Mutant(
        "a provider's error: what it quotes is logged",
        "workers/relay_workers/providers/endpoint.py",
        [Change("printable(mask_secrets(said, self.key), MAX_SAID)", "printable(said, MAX_SAID)")],
        [],
        [_LOGGED + "no_failure_brings_a_key_a_prompt_or_a_token_into_the_log"],
    ),
    Mutant(
        "a provider's error: its codes are taken as they come",
        "workers/relay_workers/providers/endpoint.py",
        [Change("[name for name in named_by(reported) if mask_keys(name, self.key) == name]", "named_by(reported)")],
        [],
        [_LOGGED + "no_failure_brings_a_key_a_prompt_or_a_token_into_the_log"],
    ),
    Mutant(
        "a provider's error: the class of a failure quotes it",
        "workers/relay_workers/providers/endpoint.py",
        [Change("failure.args = (mask_keys(str(failure), self.key),)", "pass")],
        [],
        [_LOGGED + "no_failure_brings_a_key_a_prompt_or_a_token_into_the_log"],
    ),
    Mutant(
        "a stream that unpacks to much: the loop has no turn",
        "workers/relay_workers/providers/answer_body.py",
        [Change("if len(chunk) <= PIECE_BYTES:", "if True:")],
        [],
        [_ACCESS + "a_stream_of_nothing_that_unpacks_to_much_leaves_the_loop_its_turns"],
    ),
    Mutant(
        "reading: where finishes come early, one with text proves the answer whole",
        _PROVIDERS + "reading.py",
        [Change("None and (self._stands_alone or not self.early)", "None")],
        [],
        [_READING + "a_finish_that_comes_with_text_proves_nothing_once_one_came_early"],
    ),
    Mutant(
        "reading: a tool call is shown with its finish, whatever follows",
        _PROVIDERS + "openai_reading.py",
        [
            Change(
                '            self.finish = _FINISHES.get(reason, "other")\n',
                '            self.finish = _FINISHES.get(reason, "other")\n            parts += self._flush()\n',
            )
        ],
        [],
        [_READING + "a_tool_call_is_shown_when_nothing_more_of_it_can_come"],
    ),
    Mutant(
        "a provider's connection: what came before TLS is read after it",
        _PROVIDERS + "network.py",
        [Change("if self._received or self._at_eof:  # it came in the clear", "if False:  # it came in the clear")],
        [],
        ["tests/workers/providers/test_network.py::test_what_a_proxy_sends_in_the_clear_is_not_read_as_tls"],
    ),
    Mutant(
        "a provider's connection: a turn for what was read already ends the body",
        _PROVIDERS + "network.py",
        [Change("None and not self._reader.done() and not self._waits", "None and not self._waits")],
        [],
        ["tests/workers/providers/test_network.py::test_what_comes_between_its_turn_and_its_read_is_not_the_end_of_a_body"],
    ),
    Mutant(
        "a busy worker that reads all its models in one turn",
        "relay/turns.py",
        [Change("PER_TURN = 4 ", "PER_TURN = 4000 ")],
        [],
        ["tests/test_turns.py::test_a_few_go_on_in_each_turn_of_the_loop_in_the_order_in_which_they_asked"],
    ),
    Mutant(
        "a busy worker reads at once what came before it asked",
        _PROVIDERS + "network.py",
        [Change("        await self._until_turn(", "        self._has_news or await self._until_turn(")],
        [],
        ["tests/workers/providers/test_network.py::test_also_who_has_something_to_read_waits_for_a_turn"],
    ),
    Mutant(
        "chunks of a compressed body are joined",
        _PROVIDERS + "access.py",
        [Change("if not _encodings(response):", "if True:")],
        [],
        [_JOINED + "of_a_compressed_body_what_comes_before_a_corrupt_block_is_handed_on"],
    ),
    Mutant(
        "joined chunks: what came behind them is lost",
        _PROVIDERS + "joined_chunks.py",
        [Change("            self._next = event\n", "")],
        [],
        [_JOINED + "whatever_a_server_sends_comes_out_the_same"],
    ),
    Mutant(
        "a deadline that does not wait for who waits for a turn",
        "relay/timeouts.py",
        [Change("return self._turns_given < timer.turns_asked", "return False")],
        [],
        ["tests/test_timeouts.py::test_who_waits_for_a_turn_when_the_time_is_over_is_heard_however_long_others_take"],
    ),
    Mutant(
        "a deadline that neither waits for what has arrived nor knows that we were late",
        "relay/timeouts.py",
        [
            Change("passed_s if passed_s <= _LATE_S else TICK_S", "passed_s"),
            Change("return self._turns_given < timer.turns_asked", "return False"),
        ],
        [_SATURATED + "a_worker_that_was_stopped_for_longer_than_any_deadline_goes_on_where_it_was"],
        [],
    ),
    Mutant(
        "owner: whoever asks is admitted",
        "relay/store/session/lua/admit.lua",
        [Change("if is_foreign(whose, ARGV[12], generation) then", "if false then")],
        [],
        [
            _OWNER + "a_job_for_somebody_elses_session_leaves_nothing_in_it",
            _OWNER + "whatever_happens_nobody_sees_what_is_not_theirs",
            _OWNERSHIP + "a_session_that_is_made_between_the_look_and_the_admission_is_not_written_into_unasked",
        ],
    ),
    Mutant(
        "owner: a rebuild asks nobody",
        "relay/store/session/lua/rebuild.lua",
        [Change("if is_foreign(whose, ARGV[15], generation) then", "if false then")],
        [],
        [
            _OWNER + "after_a_loss_nothing_comes_back_into_a_session_that_is_somebody_elses_now",
            _OWNER + "whatever_happens_nobody_sees_what_is_not_theirs",
        ],
    ),
    Mutant(
        "owner: a lost answer is ended in anybody's session",
        "relay/store/session/lua/bury.lua",
        [Change("if whose ~= ARGV[9] then return { 'deleted' } end\n", "")],
        [],
        [
            _OWNER + "after_a_loss_nothing_comes_back_into_a_session_that_is_somebody_elses_now",
            _FOLLOWED_OWNER + "it_ends_no_lost_answer_in_a_session_that_is_somebody_elses",
            _OWNERSHIP + "a_stop_of_a_lost_answer_writes_nothing_into_what_is_somebody_elses_now",
        ],
    ),
    Mutant(
        "owner: what has events may be claimed",
        "relay/store/session/lua/prelude.lua",
        [Change(" or known[3] ~= '0' then return", "  then return")],
        [],
        [
            _OWNER + "a_session_with_events_that_nobody_owns_stays_so",
            _OWNER + "whatever_happens_nobody_sees_what_is_not_theirs",
        ],
    ),
    Mutant(
        "owner: what is owned may be claimed",
        "relay/store/session/lua/prelude.lua",
        [Change("if known[2] or sub == ''", "if sub == ''")],
        [],
        [
            _OWNER + "a_session_that_is_claimed_is_not_claimed_again",
        ],
    ),
    Mutant(
        "owner: who makes a session does not own it",
        "relay/store/session/lua/prelude.lua",
        [Change("  if sub ~= '' then redis.call('HSET', KEY.meta, 'sub', sub) end\n", "")],
        [],
        [
            _OWNER + "whoever_makes_it_owns_it",
            _OWNER + "a_rebuild_restores_the_owner",
        ],
    ),
    Mutant(
        "owner: a job of the release before is foreign",
        "relay/store/session/lua/prelude.lua",
        [Change("whose ~= sub and (sub ~= '' or redis.call('EXISTS', of.state(generation)) == 0)", "whose ~= sub")],
        [],
        [
            _OWNER + "a_job_of_the_release_before_names_nobody_and_is_made_where_it_was_admitted",
        ],
    ),
    Mutant(
        "owner: nothing is hidden",
        "relay/store/session/lua/prelude.lua",
        [Change("return sub ~= '' and redis.call('HGET', KEY.meta, 'sub') ~= sub", "return false")],
        [],
        [
            _OWNER + "reads_and_ends_find_nothing_in_somebody_elses_session",
            _OWNERSHIP + "others_stop_and_delete_as_if_there_were_nothing",
            _OWNER + "whatever_happens_nobody_sees_what_is_not_theirs",
        ],
    ),
    Mutant(
        "owner: what meta is lost of is anybody's to delete",
        "relay/store/session/lua/delete.lua",
        [Change("or sub == '' and redis", "or redis")],
        [],
        [
            _OWNER + "what_redis_has_left_without_meta_is_deleted_only_for_those_who_were_shown_it",
        ],
    ),
    Mutant(
        "owner: whoever asks is told what was deleted",
        "relay/store/session/lua/delete.lua",
        [Change(" and (sub == '' or was_deleted('o ' .. sub))", "")],
        [],
        [
            _OWNER + "who_deletes_again_is_told_so_and_others_are_told_nothing",
            _OWNERSHIP + "others_stop_and_delete_as_if_there_were_nothing",
        ],
    ),
    Mutant(
        "owner: anybody reads one answer",
        "relay/store/session/snapshots.py",
        [Change("or (sub is not None and stored.sub != sub.encode())", "")],
        [],
        [
            _OWNER + "reads_and_ends_find_nothing_in_somebody_elses_session",
            _OWNER + "whatever_happens_nobody_sees_what_is_not_theirs",
        ],
    ),
    Mutant(
        "owner: a follower makes what is lost anybody's",
        "relay/follow/follower.py",
        [
            Change(
                "opened = await self._session_log.open(self.session, known=self.epoch, sub=self.sub)",
                "opened = await self._session_log.open(self.session, known=self.epoch)",
            )
        ],
        [],
        [
            _FOLLOWED_OWNER + "after_a_loss_its_reopening_does_not_make_the_session_anybodys",
            _OWNERSHIP + "a_token_that_names_it_owns_what_it_makes_if_it_may_submit",
        ],
    ),
    Mutant(
        "owner: a follower shows the next owner's session",
        "relay/follow/follower.py",
        [Change("if self.epoch and self._is_others(opened.epoch, opened.sub):", "if False:")],
        [],
        [
            _FOLLOWED_OWNER + "a_session_that_is_somebody_elses_now_is_shown_to_no_viewer_of_the_former_one",
            _FOLLOWED_OWNER + "so_it_is_when_it_becomes_that_while_the_log_is_read",
        ],
    ),
    Mutant(
        "owner: an old copy with another owner is read on",
        "relay/follow/follower.py",
        [Change(" or self._is_others(page.epoch, page.sub)", "")],
        [],
        [_FOLLOWED_OWNER + "an_old_copy_of_redis_that_somebody_else_has_claimed_is_shown_to_nobody_either"],
    ),
    Mutant(
        "owner: a follower does not hear of a claim",
        "relay/follow/follower.py",
        [Change("            self.sub = page.sub or self.sub  #", "            #")],
        [],
        [
            _FOLLOWED_OWNER + "it_restores_the_owner_too_where_it_has_learned_of_a_claim",
            _OWNERSHIP + "a_session_that_is_claimed_by_a_submit_is_followed_by_its_owner",
        ],
    ),
    Mutant(
        "owner: whoever asks is lent a follower",
        "relay/gateway/follower_pool.py",
        [Change("if not follower.deleted and access.sub in (None, follower.sub):", "if not follower.deleted:")],
        [],
        [
            _OWNERSHIP + "of_a_session_in_which_others_wait_the_first_to_come_is_the_owner",
            _OWNERSHIP + "a_session_that_is_taken_between_the_question_and_the_opening_is_forbidden",
        ],
    ),
    Mutant(
        "owner: a follower begins before the question",
        "relay/gateway/follower_pool.py",
        [Change("if not is_theirs and not self._is_followed(session):", "if False:")],
        [],
        [
            _OWNERSHIP + "who_may_not_make_one_makes_none",
        ],
    ),
    Mutant(
        "owner: what is in doubt is forbidden",
        "relay/gateway/follower_pool.py",
        [Change("if in_doubt or (cursor", "if (cursor")],
        [],
        [
            _OWNERSHIP + "while_redis_is_away_only_the_known_owner_is_lent_a_follower",
        ],
    ),
    Mutant(
        "owner: a submit asks in anybody's session",
        "relay/gateway/submissions.py",
        [Change("if found.sub != access.sub and not (found.is_free and access.makes):", "if False:")],
        [],
        [
            _OWNERSHIP + "in_somebody_elses_session_nobody_asks_and_nobody_learns_anything",
        ],
    ),
    Mutant(
        "owner: a retry takes anybody's question",
        "relay/gateway/submissions.py",
        [Change("submit.retry_of, access.sub)", "submit.retry_of)")],
        [],
        [
            _OWNERSHIP + "a_retry_brings_no_question_out_of_a_session_that_has_become_somebody_elses",
        ],
    ),
    Mutant(
        "owner: what was shown is anybody's to stop",
        "relay/gateway/submissions.py",
        [Change("follower = self._followers.get(session, access)", "follower = self._followers.get(session)")],
        [],
        [
            _OWNERSHIP + "an_answer_that_redis_has_lost_is_stopped_by_its_owner_only",
        ],
    ),
    Mutant(
        "owner: what was shown is anybody's to delete",
        "relay/gateway/submissions.py",
        [Change("theirs = self._followers.get(session, access)", "theirs = self._followers.get(session, Access())")],
        [],
        [
            _OWNERSHIP + "a_session_that_redis_has_lost_is_deleted_by_its_owner_only",
        ],
    ),
    Mutant(
        "a token whose key is gone",
        "relay/auth/tokens.py",
        [Change("if identity is not None and version == self._keys.version:", "if identity is not None:")],
        [],
        [
            _TOKENS + "a_cached_token_does_not_outlive_its_key",
            _JWKS + "a_key_that_is_taken_away_stops_counting",
            _JWKS + "a_kid_that_is_given_to_another_key_means_that_one",
        ],
    ),
    Mutant(
        "a cached token that never expires",
        "relay/auth/tokens.py",
        [Change("return self._unexpired(digest, identity)", "return identity")],
        [],
        [_TOKENS + "a_cached_token_expires_as_others_do"],
    ),
    Mutant(
        "a token for ever",
        "relay/auth/claims.py",
        [
            Change("    if expires_at > now + max_s + LEEWAY_S:", "    if False:"),
            Change('raise TokenRefused("no_exp", claims)', "return now + max_s"),
        ],
        [],
        [_TOKENS + "what_is_refused_and_why", _TOKENS + "the_longest_life_of_a_token_is_a_setting"],
    ),
    Mutant(
        "keys that are asked for as often as anybody likes",
        "relay/auth/jwks.py",
        [Change("self._clock() - self._tried_at >= pause_s", "True")],
        [],
        [_JWKS + "made_up_kids_make_us_ask_once_a_minute"],
    ),
    Mutant(
        "a fetch that belongs to the first who needs it",
        "relay/auth/jwks.py",
        [Change("await asyncio.wait({self._fetching})", "await self._fetching")],
        [],
        [_JWKS + "a_caller_that_leaves_cancels_nothing"],
    ),
    Mutant(
        "keys that are thrown away while their server is",
        "relay/auth/jwks.py",
        [Change("""        self._is_away = True
        metrics.key_fetches""", """        self._is_away, self._keys = True, {}
        metrics.key_fetches""")],
        [],
        [_JWKS + "keys_are_kept_while_their_server_is_away"],
    ),
    Mutant(
        "a ticket that is signed with the secret itself",
        "relay/auth/tickets.py",
        [Change("hmac.new(secret, _LABEL, hashlib.sha256).hexdigest().encode()", "secret")],
        [],
        [_TICKETS + "a_ticket_is_no_token_and_a_token_no_ticket"],
    ),
    Mutant(
        "a ticket that outlives its token",
        "relay/auth/tickets.py",
        [Change("min(now + MAX_TICKET_S, token_expires_at)", "now + MAX_TICKET_S")],
        [],
        [_TICKETS + "a_ticket_lives_no_longer_than_its_token_nor_a_quarter_of_an_hour"],
    ),

    Mutant(
        "a caller: the same token once more is warned of again",
        "relay/gateway/caller.py",
        [Change("if self.identity is None or identity.expires_at != self.identity.expires_at:", "if True:")],
        [],
        [_CALLER + "the_same_token_once_more_is_not_told_of_again"],
    ),
    Mutant(
        "a caller: revoked while its next token is checked",
        "relay/gateway/caller.py",
        [
            Change("        self._authentication.checked(identity)\n", ""),
            Change("        if self._is_over:\n", "        if False:\n"),
        ],
        [],
        [_CALLER + "a_revocation_during_a_check_is_not_missed"],
    ),
    Mutant(
        "a connection: another person's token takes it over",
        "relay/gateway/caller.py",
        [Change("if self.identity is not None and newer.sub != self.identity.sub:", "if False:")],
        [],
        [_CALLER + "a_token_that_will_not_do_leaves_the_earlier_one"],
    ),
    Mutant(
        "a connection: commands before the first hello",
        "relay/gateway/connection.py",
        [Change("if self._greeting.is_over and not isinstance(command, Hello):", "if False:")],
        [],
        [_GUARDED + "every_command_but_hello_is_refused_before_it"],
    ),
    Mutant(
        "metrics for who comes through a proxy",
        "relay/gateway/authentication.py",
        [Change("self._listens_on_loopback and not is_forwarded", "self._listens_on_loopback")],
        [],
        [_GUARDED + "metrics_are_for_operators_and_scrapers"],
    ),
    Mutant(
        "a route without its guard",
        "relay/gateway/app.py",
        [Change('for_session("read", http.generation_snapshot)', "http.generation_snapshot")],
        [],
        [_GUARDED + "every_address_asks_for_a_token_but_the_public_ones"],
    ),
    Mutant(
        "tickets: taken where a header can be sent",
        "relay/gateway/guard.py",
        [Change("if takes_tickets else None", "")],
        [],
        ["tests/scenarios/gateway/test_tokens.py::test_an_event_stream_ends_with_a_word_and_a_ticket_resumes_it"],
    ),
    Mutant(
        "a refresh that allows less leaves what is followed",
        "relay/gateway/greeting.py",
        [Change("        await self._on_newer()\n", "")],
        [],
        ["tests/gateway/test_connection.py::test_a_newer_token_that_allows_less_ends_what_it_may_not_read"],
    ),
]  # fmt: skip
