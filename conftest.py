"""Loads the suite's plugins; the fixtures are one module a layer, in fixtures/."""

pytest_plugins = (
    "fixtures.plugin.hooks",
    "fixtures.stack",
    "fixtures.cluster",
    "fixtures.cert_manager",
    "fixtures.olm",
    "fixtures.operator",
    "fixtures.gitlab",
    "fixtures.runner",
    "fixtures.pipeline",
    "fixtures.second_cluster",
    "fixtures.steps.stack",
)
