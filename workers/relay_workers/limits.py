"""From settings to the limits of each part of a worker: the one place where the settings are divided."""

from __future__ import annotations

from relay.settings import Settings
from relay.store.queue.policy import QueuePolicy
from relay_workers.asking.call import CallLimits
from relay_workers.asking.failover import FailoverRules
from relay_workers.asking.history import HistoryLimits
from relay_workers.consumer import ConsumerLimits
from relay_workers.generation import GenerationLimits
from relay_workers.writing.delivery import DeliveryLimits
from relay_workers.writing.flusher import FlushLimits
from relay_workers.writing.rebuilding import RebuildLimits


def consumer_limits(settings: Settings) -> ConsumerLimits:
    policy = QueuePolicy.of(settings)
    return ConsumerLimits(
        concurrency=settings.concurrency,
        grace_s=settings.grace_s,
        history_turns=settings.history_turns,
        lease_ms=policy.lease_ms,
        look_ms=policy.look_ms,
        generation=generation_limits(settings),
    )


def generation_limits(settings: Settings) -> GenerationLimits:
    return GenerationLimits(
        answer_timeout_s=settings.answer_timeout_s,
        prompt_timeout_s=settings.first_token_timeout_s,
        history=history_limits(settings),
        failover=FailoverRules(
            retries=settings.provider_retries,
            retry_s=settings.provider_retry_ms / 1000,
            retry_within_s=settings.first_token_timeout_s,
            midway=settings.failover == "restart",
        ),
        call=CallLimits(
            first_token_timeout_s=settings.first_token_timeout_s,
            token_timeout_s=settings.token_timeout_s,
            max_answer_bytes=settings.max_answer_bytes,
            reasoning=settings.reasoning,
        ),
        flush=FlushLimits(
            batch_size=settings.batch_size,
            batch_linger_ms=settings.batch_linger_ms,
            patience=DeliveryLimits(
                retries=settings.flush_retries,
                retry_ms=settings.flush_retry_ms,
                retry_max_ms=settings.retry_max_ms,
                spill_bytes=settings.spill_bytes,
                lost_after_ms=settings.lost_after_s * 1000,
            ),
        ),
        rebuild=RebuildLimits(look_ms=QueuePolicy.of(settings).look_ms),
        sentences=settings.localized_messages,
    )


def history_limits(settings: Settings) -> HistoryLimits:
    return HistoryLimits(
        history_tokens=settings.history_tokens,
        max_tokens=settings.max_tokens,
        max_tokens_cap=settings.max_tokens_cap,
    )
