"""Scenarios of the other files once more, on a Cluster: everything that goes through scripts, queue and stops."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.scenarios.delivery.test_answers import (
    test_a_viewer_whose_socket_is_cut_at_every_frame_ends_with_the_exact_text,
    test_a_worker_makes_no_more_answers_at_a_time_than_it_may_and_the_urgent_ones_first,
    test_an_old_answer_is_merged_in_its_log_and_reads_the_same,
    test_every_key_has_a_time_to_live_and_no_job_is_left,
    test_fifty_equal_submits_over_both_transports_make_one_generation_and_one_provider_call,
    test_the_next_question_brings_the_completed_turns_and_no_others,
)
from tests.scenarios.delivery.test_many import test_a_hundred_sessions_over_two_gateways_and_two_workers_are_all_exact
from tests.scenarios.gateway.test_delete import test_delete_ends_what_runs_tells_every_viewer_and_leaves_nothing
from tests.scenarios.redis_cluster import cluster_for_many
from tests.scenarios.stops.test_stop import (
    test_a_stop_holds_while_the_worker_is_frozen,
    test_stops_racing_with_the_end_leave_exactly_one_end,
)
from tests.scenarios.workers.test_crashes import (
    test_a_frozen_worker_that_wakes_up_bounces_off_the_fence,
    test_a_queue_without_a_worker_ends_its_answers,
    test_a_worker_killed_in_mid_answer_is_replaced_and_its_text_is_void,
    test_a_worker_that_is_told_to_go_hands_over_at_once,
)

__all__ = [
    "test_a_frozen_worker_that_wakes_up_bounces_off_the_fence",
    "test_a_hundred_sessions_over_two_gateways_and_two_workers_are_all_exact",
    "test_a_queue_without_a_worker_ends_its_answers",
    "test_a_stop_holds_while_the_worker_is_frozen",
    "test_a_viewer_whose_socket_is_cut_at_every_frame_ends_with_the_exact_text",
    "test_a_worker_killed_in_mid_answer_is_replaced_and_its_text_is_void",
    "test_a_worker_makes_no_more_answers_at_a_time_than_it_may_and_the_urgent_ones_first",
    "test_a_worker_that_is_told_to_go_hands_over_at_once",
    "test_an_old_answer_is_merged_in_its_log_and_reads_the_same",
    "test_delete_ends_what_runs_tells_every_viewer_and_leaves_nothing",
    "test_every_key_has_a_time_to_live_and_no_job_is_left",
    "test_fifty_equal_submits_over_both_transports_make_one_generation_and_one_provider_call",
    "test_stops_racing_with_the_end_leave_exactly_one_end",
    "test_the_next_question_brings_the_completed_turns_and_no_others",
]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with cluster_for_many(tmp_path_factory.mktemp("cluster")) as url:
        yield url
