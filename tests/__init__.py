import pytest

# What the tests share asserts, too: under PYTHONOPTIMIZE pytest keeps only the asserts that it rewrites.
pytest.register_assert_rewrite(
    *(
        f"tests.{name}"
        for name in (
            "client",
            "fakes",
            "follow",
            "gateway",
            "protocol",
            "redis",
            "scenarios",
            "sink_order",
            "store",
            "workers",
        )
    )
)
